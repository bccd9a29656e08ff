"""What a run folder says, for people: a damaged file in it is named in one line, and the rest still counts.

Nothing is trusted: log records are cut down to their finite numbers, everything else is text to be escaped.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from turbomim.pipeline.places.opening import is_remote, open_place
from turbomim.pipeline.places.retries import impatient
from turbomim.pipeline.system.errors import UsageError, UserError, one_line
from turbomim.pipeline.tars.manifest import Manifest, load_manifest
from turbomim.train.folder.checkpoint import read_state
from turbomim.train.folder.rundir import FineTuning, read_config, recipe_of
from turbomim.train.report.files import (
    Numbers,
    Tree,
    json_lines,
    json_object,
    json_objects,
    numbers,
    text_lines,
)
from turbomim.train.settings.config import Config

# features to measures to shares of samples scored right
Scores = dict[str, dict[str, float]]

DATED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)  (.*)")
REPLACED = re.compile(r"(.+?) cannot be decoded \((.*)\): replaced by (.+)")
# seconds for which facts of the data, which may be left out, are asked of a store
PATIENCE = 2.0
CHECKPOINT = re.compile(r"step-\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What could be read of a run.  What could not is in `problems`, a line each; more are added by drawing.

    records: of metrics.jsonl, numbers alone, each with a step.  begun, ended: dates of train.log's first and
    last line, "" without one.  replaced: (sample, reason, stand-in) of samples that could not be decoded.
    splits: "training" and "held-out" to the folder and, where it can be read, its manifest.  trained_on: the
    newest checkpoint's fingerprint of the data, "" where it is not known.  evals, analyses: JSON by
    file name.
    """

    path: Path
    label: str
    config: Config | None = None
    recipe: str | None = None
    records: list[Numbers] = field(default_factory=list)
    status: Tree = field(default_factory=dict)
    env: Tree = field(default_factory=dict)
    begun: str = ""
    ended: str = ""
    replaced: list[tuple[str, str, str]] = field(default_factory=list)
    splits: dict[str, tuple[str, Manifest | None]] = field(default_factory=dict)
    trained_on: str = ""
    evals: dict[str, Tree] = field(default_factory=dict)
    analyses: dict[str, Tree] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def fingerprint(self, split: str) -> str:
        """Fingerprint of a split's data; of training data the checkpoint's own word comes first."""
        _, manifest = self.splits.get(split, (Path(), None))
        own = self.trained_on if split == "training" else ""
        return own or (manifest.fingerprint if manifest else "")


def read_runs(paths: Sequence[Path]) -> list[RunFacts]:
    """Several runs under names that tell them apart.  Raises UserError for one that is no run, or twice."""
    folders = [path.resolve() for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        if folders.count(folder) > 1:
            raise UsageError(f"{path} is given more than once: give each run once")
    names = [folder.name for folder in folders]
    return [
        read_run(path, name if names.count(name) == 1 else str(path))
        for path, name in zip(paths, names, strict=True)
    ]


def read_run(path: Path, label: str) -> RunFacts:
    """Everything about a run but its pictures.  Raises UserError if the folder is no run."""
    if not path.exists():
        raise UserError(f"{path} is not a run: it does not exist")
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path} is not a run: it has no config.yaml; give a folder like runs/NAME")
    problems: list[str] = []
    config = _config(path, problems)
    env = json_object(path / "env.json", problems)
    dated = [found for line in text_lines(path / "train.log", problems) if (found := DATED.match(line))]
    named = [found.groups() for line in dated if (found := REPLACED.match(line[2]))]
    return RunFacts(
        path=path,
        label=label,
        config=config,
        recipe=recipe_of(path) or None,
        records=_records(path / "metrics.jsonl", problems),
        status=json_object(path / "status.json", problems),
        env=env,
        begun=dated[0][1] if dated else "",
        ended=dated[-1][1] if dated else "",
        replaced=[(sample, reason, other) for sample, reason, other in dict.fromkeys(named)],
        splits=_splits(path, config, problems),
        trained_on=_trained_on(path / "ckpt", problems),
        evals=json_objects(path / "eval", problems),
        analyses=json_objects(path / "analysis", problems),
        problems=problems,
    )


def scores_of(tree: Tree) -> Scores | None:
    """The scores in a result of `turbomim eval`, None if it is something else."""
    scores = tree.get("scores")
    if not isinstance(scores, dict) or not scores or not all(isinstance(v, dict) for v in scores.values()):
        return None
    found = {str(feature): numbers(measures) for feature, measures in scores.items()}
    return found if any(found.values()) else None


def _config(path: Path, problems: list[str]) -> Config | None:
    try:
        return read_config(path)
    except FineTuning:
        raise
    except (UserError, ValueError, RecursionError) as error:
        problems.append(one_line(error, 300))
        return None


def _records(path: Path, problems: list[str]) -> list[Numbers]:
    trees = json_lines(path, problems)
    records = [found for tree in trees if "step" in (found := numbers(tree))]
    if len(records) < len(trees):
        problems.append(f"{path}: {len(trees) - len(records)} of its records have no step")
    return records


def _trained_on(ckpt: Path, problems: list[str]) -> str:
    latest = "".join(text_lines(ckpt / "latest", problems)[:1])
    # the name is joined to a folder: a path in it could lead anywhere
    if not CHECKPOINT.fullmatch(latest):
        return ""
    try:
        return read_state(ckpt / latest).fingerprint
    except UserError as error:
        problems.append(one_line(error, 300))
        return ""


def _splits(run: Path, config: Config | None, problems: list[str]) -> dict[str, tuple[str, Manifest | None]]:
    data = config.data if config else None
    paths = {"training": data.path, "held-out": data.heldout} if data else {}
    return {
        name: _split(_place(path, run, config), name, problems)
        for name, path in paths.items()
        if path and config
    }


def _split(path: str, name: str, problems: list[str]) -> tuple[str, Manifest | None]:
    if not is_remote(path) and not Path(path).is_dir():
        problems.append(f"{path}, the {name} data, is not a folder seen from here: its facts are left out")
        return path, None
    try:
        with impatient(PATIENCE):
            return path, load_manifest(open_place(path))
    except UserError as error:
        problems.append(one_line(error, 300))
        return path, None


def _place(path: str, run: Path, config: Config) -> str:
    """Where a path of the settings leads: from where the run began, if its folder tells, or from here.

    What lies in the run's own folder, as the demo's shards do, moves with it.
    """
    if is_remote(path):
        return path
    own, folder = Path(config.run.folder, config.run.name), run.resolve()
    if Path(path).is_relative_to(own):
        return str(run / Path(path).relative_to(own))
    ends = not own.is_absolute() and folder.parts[-len(own.parts) :] == own.parts
    began = folder.parents[len(own.parts) - 1] if ends else Path()
    return str(began / path) if (began / path).is_dir() else path
