"""`eval finetune --help` lists every setting of its own section, with comment and default."""

import re
from dataclasses import fields

import pytest
from tests.calls import call

from turbomim.train.settings.finetune import FinetuneSettings


def test_the_settings_of_fine_tuning_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert call(monkeypatch, "eval", "finetune", "--help") == 0
    said = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    listed = re.findall(r"--finetune\.([\w-]+) \w+ (.*?) \(default: (.*?)\)", said)
    assert [name.replace("-", "_") for name, _, _ in listed] == [f.name for f in fields(FinetuneSettings)]
    assert all(len(comment) > 10 for _, comment, _ in listed)
    assert ("layer-decay", "rate of a layer over that of the next one", "0.65") in listed
    assert "--train SHARDS" in said and "MAE ViT-B's values" in said
