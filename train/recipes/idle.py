"""Settings that were given and do nothing beside the others: no fault, but seldom what was meant."""

from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict


def idle_settings(config: Config, steps: int, device: str, ranks: int) -> list[str]:
    """A line for every setting that is other than its recipe's, and that nothing reads.

    steps, device (cpu or cuda), ranks: of the run.  What a method does not read at all is refused
    (train/settings/model.py).
    """
    base = recipe(config.run.recipe) if config.run.recipe in RECIPES else Config()
    ours, theirs = to_dict(config), to_dict(base)
    lines = []
    for name, why in _why_idle(config, steps, device, ranks).items():
        section, _, key = name.partition(".")
        value = ours[section][key]
        if why and value != theirs[section][key]:
            lines.append(f"{name} = {value} does nothing: {why}")
    return lines


def _why_idle(config: Config, steps: int, device: str, ranks: int) -> dict[str, str]:
    """Why a setting would do nothing, by its name; empty where it does something."""
    data, model, optim, run, scores = config.data, config.model, config.optim, config.run, config.eval

    def beyond(every: int) -> str:
        return f"the run has {steps:,} steps, and its end comes first" if every > steps else ""

    no_gpu = "the run is on a CPU" if device == "cpu" else ""
    lars, muon = optim.name == "lars", optim.name == "muon"
    unscored = "eval.every_epochs is 0" if not scores.every_epochs else ""
    return {
        "data.rrc_scale": "data.crop is src" if data.crop == "src" else "",
        "data.window": "data.shuffle is full" if data.shuffle == "full" else "",
        "data.decode": no_gpu if data.decode == "mixed" else "",
        "data.hw_decoder_load": "data.decode is cpu" if data.decode == "cpu" else no_gpu,
        "model.radius": "model.target is raw" if model.target == "raw" else "",
        "optim.lr_drop_epochs": _why_no_drop(config),
        "optim.decay_epochs": f"optim.schedule is {optim.schedule}" if optim.schedule != "wsd" else "",
        "optim.min_lr": "optim.schedule is step" if optim.schedule == "step" else "",
        **dict.fromkeys(("optim.beta1", "optim.beta2", "optim.eps"), "optim.name is lars" if lars else ""),
        "optim.momentum": "" if lars or muon else f"optim.name is {optim.name}",
        "optim.ns_steps": "" if muon else f"optim.name is {optim.name}",
        "optim.warmup_start": "optim.warmup_epochs is 0" if not optim.warmup_epochs else "",
        "step.compile_mode": "step.compile is false" if not config.step.compile else "",
        "step.shard": "the run has one rank" if ranks == 1 else "",
        "run.log_every": beyond(run.log_every),
        "run.save_every": beyond(run.save_every),
        "run.picture_every": beyond(run.picture_every),
        "run.eval_every": beyond(run.eval_every) if data.heldout else "data.heldout is empty",
        "eval.train": unscored,
        "eval.test": unscored,
        "eval.samples": unscored,
    }


def _why_no_drop(config: Config) -> str:
    optim = config.optim
    if optim.schedule != "step":
        return f"optim.schedule is {optim.schedule}"
    late = optim.lr_drop_epochs >= optim.epochs
    return f"the run ends before, after {optim.epochs:g} epochs" if late else ""
