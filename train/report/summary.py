"""A run in a few facts: what both `turbomim report` and `turbomim compare` begin with."""

from collections.abc import Mapping, Sequence

from turbomim.pipeline.system.words import duration
from turbomim.train.folder.begun import begun_in_words, read_begun
from turbomim.train.folder.log import after_start, mean_over_time, seconds_of
from turbomim.train.folder.rundir import has_died
from turbomim.train.recipes.table import recipe
from turbomim.train.recipes.title import method_name, run_title
from turbomim.train.report.files import Numbers
from turbomim.train.report.page import short_path
from turbomim.train.report.run import RunFacts
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict

NOT_SAID = "–"
# these name a run, and decide nothing; the weights that a fine-tuning began from are its run's
NAMES = ("run.name", "run.recipe", "run.folder", "finetune.weights")


def summarise_run(run: RunFacts) -> dict[str, str]:
    """What a run was and what came out, by name; what is not known is left out."""
    facts = {"recipe": run.recipe or ""}
    if run.config:
        facts["recipe"] = run_title(run.config, run.recipe)
        facts |= {"model": model_text(run.config), "target": target_text(run.config)}
    last = run.records[-1] if run.records else {}
    facts["began with"] = begun_in_words(read_begun(run.path))
    facts["status"] = "died" if has_died(run.status) else str(run.status.get("status", ""))
    facts["steps"] = f"{last['step']:,.0f} of {last['steps']:,.0f}" if "steps" in last else ""
    facts["images seen"] = _text(last, "position", ",.0f")
    facts["passes over the data"] = _text(last, "epoch", ".2f")
    facts["training loss"] = last_logged(run, "loss")
    facts["held-out loss"] = last_logged(run, "heldout_loss")
    facts |= time_and_rates(run.records)
    gib = max((r["memory_gib"] for r in run.records if "memory_gib" in r), default=None)
    facts["most memory of a process"] = "" if gib is None else f"{gib:.1f} GiB"
    facts["samples replaced"] = _text(last, "replaced_total", ",.0f")
    facts["steps skipped"] = _text(last, "skipped_total", ",.0f")
    facts["roll-backs"] = _text(last, "rollbacks", ",.0f")
    facts["begun"], facts["last log line"] = run.begun, run.ended
    return {name: text for name, text in facts.items() if text}


def time_and_rates(records: list[Numbers]) -> dict[str, str]:
    """Time and rates over a run; rates leave out each process's first log line."""
    timed = after_start(records)
    rate, wait, mfu = (mean_over_time(timed, name) for name in ("img_per_s", "data_wait_pct", "mfu"))
    seconds = sum(seconds_of(record) for record in records)
    return {
        "time of its steps": duration(seconds) if seconds > 0 else "",
        "img/s": "" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}",
        "waiting for data": "" if wait is None else f"{wait:.1f} %",
        "MFU": "" if mfu is None else f"{100 * mfu:.1f} %",
    }


def last_logged(run: RunFacts, name: str) -> str:
    """The last value of a number that was logged, with its step where that is not the last."""
    found = [record for record in run.records if name in record]
    if not found:
        return ""
    early = "" if found[-1] is run.records[-1] else f" (step {found[-1]['step']:,.0f})"
    return f"{found[-1][name]:.4f}{early}"


def model_text(config: Config) -> str:
    """Method and sizes."""
    model = config.model
    blocks = model.stages if model.method.startswith("simmim-swin") else model.depth
    return (
        f"{method_name(config)}, {config.data.size} px, patch {model.patch}, "
        f"width {model.width}, {blocks} blocks, {model.heads} heads"
    )


def target_text(config: Config) -> str:
    """What is masked and what must be predicted."""
    model = config.model
    blur = "" if model.target == "raw" else f", radius {model.radius:g}"
    norm = ", normalised by patch" if model.norm_pix else ""
    return f"{model.target}{blur}{norm}; {config.patches - config.keep} of {config.patches} patches masked"


def settings_as_text(config: Config) -> dict[str, str]:
    """Every setting as section.key and text, without those that only name the run."""
    return {
        name: _setting(value)
        for section, values in to_dict(config).items()
        for key, value in values.items()
        if (name := f"{section}.{key}") not in NAMES
    }


def recipe_settings(run: RunFacts) -> dict[str, str]:
    """The settings of a run's recipe, the defaults where it has none."""
    return settings_as_text(recipe(run.recipe) if run.recipe else Config())


def all_names(columns: Sequence[Mapping[str, object]]) -> list[str]:
    """Every name that one of the columns has, in their order."""
    return list(dict.fromkeys(name for column in columns for name in column))


def table_rows(names: Sequence[str], columns: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """A row a name: the name, and what each column says of it."""
    return [[name, *(column.get(name, NOT_SAID) for column in columns)] for name in names]


def differing(columns: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of settings that are not the same in all."""
    return [name for name in all_names(columns) if len({column.get(name) for column in columns}) > 1]


def heading_of(run: RunFacts, name: str, runs: Sequence[RunFacts]) -> str:
    """What a part of a run is called where several runs may be shown."""
    return f"{run.label}: {name}" if len(runs) > 1 else name


def cut_own_paths(line: str, runs: Sequence[RunFacts]) -> str:
    """A line in which paths of runs and of their data have their ends alone.

    A page cuts any path in a text, but one with spaces has no end that a text shows.
    """
    for run in runs:
        for path in (run.path, *(path for path, _ in run.splits.values())):
            line = line.replace(str(path), short_path(str(path)))
    return line


def percent_or_number(value: float) -> str:
    """A share of samples in %, another number as it is."""
    return f"{100 * value:.1f}" if 0 <= value <= 1 else f"{value:.4g}"


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value) or "(none)"


def _text(record: Numbers, name: str, form: str) -> str:
    return f"{record[name]:{form}}" if name in record else ""
