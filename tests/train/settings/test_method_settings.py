"""No setting of the model is ignored in silence: what a method does not read, it refuses.

Planted, each seen to fail the test named: a setting left out of READ_BY, or a method that does not read it
among its readers (`test_what_a_method_does_not_read_it_refuses`); a method missing in METHOD_NAMES
(`test_every_method_is_known_to_the_settings`); the first unread setting named alone, or defaults of others
(`test_all_settings_that_are_not_read_are_named_at_once`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import fields
from typing import Any, cast

import pytest

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.models.methods import METHODS, make_model
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.settings.model import METHOD_NAMES, READ_BY, ModelConfig

DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
VIT = {"patch": 8, "width": 16, "depth": 2, "heads": 2}
SWIN = {"patch": 4, "width": 16, "heads": 2, "stages": "1,1", "window": 3, "norm_pix": False}
SMALL: dict[str, dict[str, Any]] = {
    "mae": {**VIT, **DECODER},
    "mff": {**VIT, **DECODER, "fuse": "0,1"},
    "convmae": {"width": 16, "depth": 1, "heads": 2, **DECODER, "conv_widths": "8,8", "conv_depths": "1,1"},
    "simmim": {**VIT, "norm_pix": False},
    "simmim-swin": SWIN,
    "simmim-swinv2": {**SWIN, "norm_window": 7},
}


class Noting:
    """Settings in whose place it stands; notes the names of the model's that are read."""

    def __init__(self, settings: Config | ModelConfig, read: set[str]) -> None:
        self.settings, self.read = settings, read

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(type(self.settings), name)
        if isinstance(attribute, property) and attribute.fget is not None:
            return attribute.fget(self)
        if isinstance(self.settings, ModelConfig):
            self.read.add(name)
        value = getattr(self.settings, name)
        return Noting(value, self.read) if isinstance(value, ModelConfig) else value


def another(value: Any) -> Any:
    """A value of the same type; it is refused before it is looked at."""
    return not value if isinstance(value, bool) else value + type(value)(1)


@pytest.mark.parametrize("method", SMALL)
def test_what_a_method_does_not_read_it_refuses(method: str) -> None:
    model = ModelConfig(method=method, **SMALL[method])
    config = Config(data=DataConfig(size=48), model=model)
    read: set[str] = set()
    METHODS[method](cast(Config, Noting(config, read)))
    # these two are read before there is a model
    read |= {"method", "encoder"}
    names = {f.name for f in fields(ModelConfig)}
    assert "width" in read and read <= names
    refused = {name for name, readers in READ_BY.items() if method not in readers}
    assert names - read <= refused, "ignored in silence"
    assert READ_BY.keys() - refused <= read, "accepted, and read by nobody"
    for name in refused:
        with pytest.raises(UsageError) as error:
            dataclasses.replace(model, **{name: another(getattr(model, name))})
        assert f"model.{name} = " in str(error.value) and "\n" not in str(error.value)
        assert f"must be left at {getattr(ModelConfig(), name)!r}, as method {method} does not" in str(
            error.value
        )
    make_model(config)


def test_all_settings_that_are_not_read_are_named_at_once() -> None:
    with pytest.raises(UsageError) as error:
        ModelConfig(method="simmim-swin", depth=6, decoder_width=64, fuse="0,1", norm_pix=False)
    assert str(error.value) == (
        "model.depth = 6, model.decoder_width = 64, model.fuse = '0,1': must be left at 12, 512, "
        "'0,2,4,6,8,11', as method simmim-swin does not read them"
    )


def test_every_method_is_known_to_the_settings() -> None:
    assert set(METHOD_NAMES) == METHODS.keys() == SMALL.keys()
    assert {name for readers in READ_BY.values() for name in readers} <= set(METHOD_NAMES)


def test_a_method_of_somebodys_own_reads_what_it_likes() -> None:
    assert ModelConfig(method="mine", fuse="0,1", window=3, complementary=True).fuse == "0,1"
