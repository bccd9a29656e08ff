"""Settings: where they come from, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.recipes.command_line import config_of, parse_config
from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config, DataConfig, RunConfig
from turbomim.train.settings.dictionary import differences, from_dict, to_dict
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_name_their_run_and_round_trip(name: str) -> None:
    config = recipe(name)
    assert config.run.name == name
    assert from_dict(to_dict(config), Config(), "x.yaml") == config


@pytest.mark.parametrize(
    ("name", "epochs", "target", "start", "decay_tokens", "crop"),
    [
        ("mae-vit-b16-800e", 800, "raw", 0.0, True, "rrc"),
        ("pixmim-vit-b16-300e", 300, "gaussian", 1e-4, False, "src"),
        ("pixmim-vit-b16-800e", 800, "gaussian", 1e-9, False, "src"),
        ("pixmim-ideal-vit-b16-300e", 300, "ideal", 1e-4, False, "src"),
        ("pixmim-ideal-vit-b16-800e", 800, "ideal", 1e-9, False, "src"),
    ],
)
def test_published_hyper_parameters(
    name: str, epochs: int, target: str, start: float, decay_tokens: bool, crop: str
) -> None:
    config = recipe(name)
    optim, model = config.optim, config.model
    assert optim.lr == pytest.approx(2.4e-3)
    assert (optim.global_batch, optim.epochs, optim.warmup_epochs) == (4096, epochs, 40)
    assert (optim.beta1, optim.beta2, optim.weight_decay, optim.eps) == (0.9, 0.95, 0.05, 1e-8)
    assert (optim.warmup_start, optim.decay_tokens, optim.min_lr) == (start, decay_tokens, 0.0)
    assert (model.target, model.radius, model.norm_pix, model.mask_ratio) == (target, 40.0, True, 0.75)
    assert (model.patch, model.width, model.depth, model.heads) == (16, 768, 12, 12)
    assert (model.decoder_width, model.decoder_depth, model.decoder_heads) == (512, 8, 16)
    assert (config.data.size, config.data.crop, config.keep) == (224, crop, 49)
    assert config.data.interpolation == ("bicubic" if crop == "rrc" else "bilinear")


def test_fewer_epochs_than_warm_up_name_the_setting_to_change() -> None:
    with pytest.raises(UserError, match=r"optim\.warmup_epochs = 0\.8: .*need --optim\.warmup_epochs, too"):
        from_dict({"optim": {"epochs": 0.05}}, recipe("cifar10-vit-t4"), "flags")


def test_of_fewer_epochs_alone_warm_up_and_drop_keep_their_share(tmp_path: Path) -> None:
    def schedule(name: str, *words: str) -> tuple[float, float, float]:
        optim = parse_config([name, *words])[0].optim
        return optim.epochs, optim.warmup_epochs, optim.lr_drop_epochs

    assert schedule("pixmim-vit-b16-300e", "--optim.epochs", "30") == (30, 4, 0)
    assert schedule("pixmim-vit-b16-300e", "--optim.epochs", "600") == (600, 40, 0)
    assert schedule("pixmim-vit-b16-300e", "--optim.epochs", "30", "--optim.warmup-epochs", "9") == (30, 9, 0)
    assert schedule("simmim-vit-b16-800e", "--optim.epochs", "80") == (80, 1, 70)
    file = tmp_path / "f.yaml"
    file.write_text("optim: {epochs: 30, warmup_epochs: 3}\n")
    assert schedule("pixmim-vit-b16-300e", "--config", str(file), "--optim.epochs", "10") == (10, 1, 0)


def test_order_of_sources(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("optim:\n  base_lr: 1e-4\n  global_batch: 128\ndata: {path: from-file}\n")
    words = [
        "demo",
        "--config",
        str(file),
        "--dry-run",
        "--optim.global-batch",
        "256",
        "--step.compile=false",
    ]
    config, dry_run = parse_config(words)
    assert dry_run
    assert config.optim.base_lr == 1e-4
    assert config.optim.global_batch == 256
    assert config.data.path == "from-file"
    assert config.step.compile is False
    assert config.model == recipe("demo").model


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "pretrain needs a recipe first, as demo or "),
        (["dmo"], "unknown recipe 'dmo': did you mean demo?"),
        (["demo", "--data.pth", "x"], "flags: unknown key 'data.pth': did you mean data.path"),
        (["demo", "--dat.path", "x"], "flags: unknown section 'dat': did you mean data?"),
        (["demo", "--data.size", "9x"], "flags: data.size = 9x: must be a whole number"),
        (["demo", "--data.size", "100"], "data.size = 100: must be a multiple of model.patch (8)"),
        (["demo", "--data.crop", "rcc"], "flags: data.crop = rcc: must be one of src, rrc"),
        (["demo", "--step.compile", "maybe"], "flags: step.compile = 'maybe': must be true or false"),
        (["demo", "--optim.base_lr", "nan"], "flags: optim.base_lr = nan: must be a number"),
        (["demo", "--optim.base_lr"], "--optim.base_lr needs a value"),
        (["demo", "--epochs", "3"], "unknown flag '--epochs': did you mean --optim.epochs?"),
        (["demo", "--warmup-epochs=3"], "did you mean --optim.warmup_epochs?"),
        (["demo", "--model.epochs", "3"], "flags: unknown key 'model.epochs': did you mean optim.epochs?"),
        (
            ["demo", "--model.lr", "3"],
            "flags: unknown key 'model.lr': did you mean model.target",
        ),
        (["mae"], "unknown recipe 'mae': did you mean mae-vit-s16-800e or mae-vit-b16-800e or"),
        (["demo", "stray"], "'stray' is not a setting: write --section.key VALUE"),
        (["demo", "--config", "/nowhere.yaml"], "--config /nowhere.yaml: No such file"),
        (
            ["demo", "--model.mask_ratio", "0.999"],
            "model.mask_ratio = 0.999: must be a ratio that keeps 1 to 143",
        ),
        (["demo", "--run.name", ""], "run.name = : must be letters, digits"),
        (["demo", "--run.name", "../x"], "run.name = ../x: must be letters, digits"),
        (
            ["demo", "--model.radius", "0.5"],
            "model.radius = 0.5: must be large enough for a blur of less than 96",
        ),
        (["demo", "--data.shuffle", "windows"], "flags: data.shuffle = windows: must be one of full, window"),
        (["demo", "--data.window", "0"], "data.window = 0: must be at least 1 shard"),
        (["demo", "--data.groups", "0"], "data.groups = 0: must be at least 1"),
        (["demo", "--data.readers", "-1"], "data.readers = -1: must be 0 (automatic) or more"),
        (["demo", "--data.hw_decoder_load", "1.5"], "data.hw_decoder_load = 1.5: must be 0 to 1, or -1"),
        (["demo", "--data.max_bad_share", "2"], "data.max_bad_share = 2.0: must be 0 to 1"),
        (["demo", "--data.max_bad_row", "0"], "data.max_bad_row = 0: must be at least 1"),
        (["demo", "--run.keep", "1"], "run.keep = 1: must be at least 2"),
        (["demo", "--model.width", "100"], "model.width = 100: must be a multiple of 4 x its 4 heads"),
    ],
)
def test_bad_settings_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_config(words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must be sections of key: value"),
        ("data: 3\n", "section data must hold key: value lines, not 3"),
        ("data: {size: big}\n", "data.size = big: must be a whole number"),
        ("optim: {epochs: [1]}\n", "optim.epochs = [1]: must be a number"),
        ("model: {norm_pix: 1}\n", "model.norm_pix = 1: must be true or false"),
        ("data: [\n", "is not YAML"),
        ("1: {}\n", "unknown section '1'"),
        ("optim:\n  epochs: 3\n\n  epochs: 4\n", "bad.yaml: epochs is in line 2 and again in line 4: give"),
        ("run: {name: a}\noptim: {}\nrun: {seed: 1}\n", "bad.yaml: run is in line 1 and again in line 3"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        parse_config(["demo", "--config", str(file)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_a_program_are_those_of_flags(tmp_path: Path) -> None:
    """Numbers, truth values and paths mean what their text means as a flag; None changes nothing."""
    file = tmp_path / "f.yaml"
    file.write_text("optim: {base_lr: 1e-4, global_batch: 128}\n")
    given = {
        "optim.epochs": 20,
        "optim.base_lr": 0.5,
        "step.compile": False,
        "data.path": tmp_path / "shards",
    }
    config = config_of("demo", {**given, "run.name": None}, file)
    words = [word for name, value in given.items() for word in (f"--{name}", str(value).lower())]
    words[-1] = str(tmp_path / "shards")
    assert parse_config(["demo", "--config", str(file), *words]) == (config, False)
    assert (config.optim.base_lr, config.optim.global_batch) == (0.5, 128)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 2}, "settings: unknown setting 'epochs': did you mean optim.epochs?"),
        ({"optim.epoch": 2}, "settings: unknown key 'optim.epoch': did you mean optim.epochs"),
        ({"optim.epochs": "many"}, "settings: optim.epochs = many: must be a number"),
        ({"optim.epochs": True}, "settings: optim.epochs = True: must be a number"),
        ({"optim.global_batch": -16}, "optim.global_batch = -16: must be at least 1"),
        ({"optim.global_batch": 2.5}, "settings: optim.global_batch = 2.5: must be a whole number"),
        ({"step.compile": 1}, "settings: step.compile = 1: must be true or false"),
        ({"run.name": 5}, "settings: run.name = 5: must be text"),
        ({"data.size": 100}, "data.size = 100: must be a multiple of model.patch (8)"),
    ],
)
def test_bad_settings_of_a_program_are_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        config_of("demo", settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("", "recipe: demo\noptim: {epochs: 20}\n", "demo"),
        ("demo", "recipe: demo\n", "demo"),
        ("demo", "optim: {epochs: 20}\n", "demo"),
        # a run's own config.yaml, of an import without a recipe
        ("", "run: {recipe: ''}\n", ""),
        ("", "run: {recipe: demo}\n", "demo"),
        ("demo", "run: {recipe: ''}\n", ""),
    ],
)
def test_a_file_names_its_recipe(tmp_path: Path, name: str, text: str, found: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    config = config_of(name, {}, file)
    assert config.run.recipe == found
    assert config.model == (recipe(name or found) if name or found else Config()).model


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "",
            "optim: {epochs: 20}\n",
            "recipe first, as demo or pixmim-vit-b16-300e, or f.yaml a line `recipe: NAME`; ",
        ),
        ("", "recipe: dmo\n", "f.yaml: unknown recipe 'dmo': did you mean demo?"),
        ("", "recipe: [1]\n", "f.yaml: unknown recipe '[1]': known: "),
        ("demo", "recipe: mae-vit-b16-800e\n", "f.yaml is for the recipe mae-vit-b16-800e, not demo: give"),
        ("demo", "run: {recipe: mae-vit-b16-800e}\n", "f.yaml is for the recipe mae-vit-b16-800e, not demo"),
        ("dmo", "{}\n", "unknown recipe 'dmo': did you mean demo?"),
    ],
)
def test_a_file_and_its_recipe_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        config_of(name, {}, "f.yaml")
    assert message in str(error.value)


def test_no_flag_names_the_recipe() -> None:
    with pytest.raises(UsageError, match=r"run\.recipe is no setting to be given: name the RECIPE itself"):
        parse_config(["demo", "--run.recipe", "mae-vit-b16-800e"])


def test_differences_name_what_changes_the_numbers() -> None:
    one = Config()
    assert differences(one, dataclasses.replace(one, run=RunConfig(log_every=1, name="b"))) == []
    two = dataclasses.replace(
        one, model=ModelConfig(radius=10.0), optim=OptimConfig(micro_batch=8, epochs=900)
    )
    assert differences(one, two) == ["model.radius: 40.0 -> 10.0", "optim.epochs: 800 -> 900"]


def test_how_fast_data_comes_may_change_on_resume_but_not_its_order() -> None:
    one = Config()
    fast = DataConfig(
        threads=3, readers=4, prefetch=5, decode="cpu", hw_decoder_load=0.5, max_bad_share=0.5, max_bad_row=9
    )
    assert differences(one, Config(data=fast)) == []
    assert differences(one, Config(data=DataConfig(window=3))) == []
    other = Config(data=DataConfig(shuffle="window", window=3))
    assert differences(one, other) == ["data.shuffle: full -> window", "data.window: 16 -> 3"]
    wider = Config(data=DataConfig(shuffle="window", window=4))
    assert differences(other, wider) == ["data.window: 3 -> 4"]
    assert differences(one, Config(data=DataConfig(groups=2))) == ["data.groups: 1 -> 2"]
