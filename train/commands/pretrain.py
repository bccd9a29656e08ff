"""`turbomim pretrain RECIPE …`."""

from pathlib import Path
from typing import Final

from turbomim.pipeline.places.opening import check_local
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.recipes.command_line import parse_config
from turbomim.train.settings.config import Config
from turbomim.train.settings.flags import take_number, take_value
from turbomim.train.settings.known_flags import check_flags, settings_of

# flags that are no settings; pretrain_help.py says what they are, and needs what a bare machine has not
OWN: Final = ("--config", "--from", "--preset", "--dry-run", "--world-size", "--img-per-s", "--profile")


def pretrain_command(argv: list[str]) -> None:
    """Train, or with --dry-run say what would be trained and what it would take.  Raises UserError."""
    if "--help" in argv or "-h" in argv:
        from turbomim.train.commands.pretrain_help import print_help

        print_help(argv)
        return
    check_flags(argv, dict.fromkeys(OWN, ()) | settings_of(Config))
    words = list(argv)
    preset, steps = take_value(words, "--preset"), take_value(words, "--profile")
    ranks = take_number(words, "--world-size", int)
    img_per_s = take_number(words, "--img-per-s", float)
    begins_from = _take_run(words)
    config, dry_run = parse_config(words)
    if img_per_s is not None and ranks is None:
        raise UsageError("--img-per-s prices a run: give --dry-run --world-size RANKS too")
    if ranks is not None and not dry_run:
        raise UsageError("--world-size prices a run: give --dry-run too (torchrun says how many ranks train)")
    if preset is not None:
        from turbomim.train.machine.presets import preset_batch

        # refused before anything is opened
        preset_batch(config, preset)
    if ranks is not None:
        from turbomim.train.pretrain.dry_run import price

        price(config, ranks=ranks, img_per_s=img_per_s, preset=preset)
        return
    from turbomim.train.loop.profiling import parse_steps
    from turbomim.train.pretrain.pretrain import pretrain

    profile = range(0) if steps is None else parse_steps(steps)
    pretrain(config, preset=preset, dry_run=dry_run, profile=profile, begins_from=begins_from)


def _take_run(words: list[str]) -> Path | None:
    """Take --from RUN out of the words; without a recipe and a file the settings are that run's own."""
    run = take_value(words, "--from")
    if run is None:
        return None
    check_local("--from", run)
    no_recipe = not words or words[0].startswith("-")
    if no_recipe and not any(word == "--config" or word.startswith("--config=") for word in words):
        from turbomim.train.folder.rundir import read_config

        # what is no run is said of --from, and not of a file
        read_config(Path(run))
        words += ["--config", str(Path(run) / "config.yaml")]
    return Path(run)
