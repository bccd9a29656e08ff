"""The settings in a run folder: read as they were written, and legible."""

from pathlib import Path

import torch
from tests.runs import config_for

from turbomim.train.folder.rundir import read_config, write_settings


def test_names_stand_in_the_settings_as_they_were_written(tmp_path: Path) -> None:
    """Planted, and seen to fail: escapes for all that is not ASCII; no bytes for what is no UTF-8."""
    for path in ("data/half of \udce4", "data/Björk 桜"):
        config = config_for(Path(path), tmp_path)
        write_settings(tmp_path, config, torch.device("cpu"), 1)
        assert read_config(tmp_path) == config
    assert "  path: data/Björk 桜\n" in (tmp_path / "config.yaml").read_text(encoding="utf-8")
