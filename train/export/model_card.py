"""The model card beside an export: a README.md as the Hugging Face Hub reads it.

Every number in it is read from the run's files; what they do not tell is not there.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from turbomim import __version__
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.train.encoder.crop import own_crop
from turbomim.train.export.weights import Exported, Trained, Tuned
from turbomim.train.folder import checkpoint
from turbomim.train.folder.begun import begun_in_words
from turbomim.train.folder.log import Record, read_metrics
from turbomim.train.folder.rundir import recipe_of
from turbomim.train.recipes.table import recipe
from turbomim.train.recipes.title import method_text, run_title
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config
from turbomim.train.settings.dictionary import differences
from turbomim.train.settings.finetune import FinetuneConfig, published_finetune

NAME = "README.md"
# what tells our cards from others' files
TAG = "turbomim"
UNKNOWN_LICENSE = "other"

# by the setting data.crop
CROPS = {"src": "simple resized crop", "rrc": "random resized crop"}

# classes that are named
MOST_CLASSES = 20

# shares of samples among an evaluation's single values
SHARES = ("top1", "top5")

# a fine-tuning's own result: its file, and what it is called
RESULT, OWN = "result.json", "finetune"

FEATURE = "`feature` is what `turbomim embed` writes of the photograph.\n"

Rows = Iterator[tuple[str, object]]


def model_card(
    exported: Exported,
    trained: Trained | Tuned,
    license: str = UNKNOWN_LICENSE,
) -> str:
    """The text of a card, for the folder that it is in, or for the repository that it will be pushed to.

    Raises UserError if a file of the run that it is made of cannot be read.
    """
    run, config, tuned = trained.run, trained.config, isinstance(trained, Tuned)
    what = f"Then fine-tuned on labels: it tells {_classes(trained)}. " if isinstance(trained, Tuned) else ""
    state = checkpoint.read_state(run / "ckpt" / f"step-{trained.step:08d}")
    # a fine-tuning's settings do not tell which recipe pre-trained it
    title = f"Method: {method_text(config)}" if tuned else f"Recipe: {run_title(config, recipe_of(run))}"
    # what two papers are of is a setting here
    lsmae = recipe_of(run).startswith("lsmae-")
    methods = [config.model.method, *["pixmim"] * (config.model.target != "raw"), *["lsmae"] * lsmae]
    head: dict[str, Any] = {
        "library_name": exported.library,
        "license": license,
        "pipeline_tag": "image-classification" if tuned else "image-feature-extraction",
        "tags": ["masked-image-modeling", "self-supervised-learning", *methods, TAG],
    }
    if results := hub_results(run, trained.step):
        head["model-index"] = [{"name": config.run.name, "results": results}]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n",
        f"# {config.run.name}\n",
        "A vision encoder pre-trained by masked image modelling: no labels, most of each image hidden, the "
        f"hidden part predicted. {what}{title}; exported by turbomim {__version__}.\n",
    ]
    if license == UNKNOWN_LICENSE:
        parts.append("The licence of these weights was not stated when they were exported.\n")
    here = "." if exported.path.is_dir() else exported.path.name
    code = exported.code or exported.load
    parts += [
        "## Loading\n",
        *([FEATURE] if "\nfeature = " in code else []),
        f"```python\n{exported.placed(code, here)}\n```\n",
        *([f"{exported.note}\n"] if exported.note else []),
        f"Checked when it was exported: {exported.checked}.\n",
        "## Images\n",
        table(image_rows(config)),
        "## Training\n",
        table(training_rows(run, config, state)),
        "## Evaluation\n",
        *(evaluations(run) or ["No evaluation of this run is recorded.\n"]),
    ]
    return "\n".join(parts)


def card_content(exported: Exported, trained: Trained | Tuned, license: str) -> bytes:
    """The card as its file has it: UTF-8, and what is none in the name of a file is escaped."""
    return model_card(exported, trained, license).encode(errors="backslashreplace")


def _classes(tuned: Tuned) -> str:
    """Its classes in words, the first of them by name."""
    names = ", ".join(tuned.classes[:MOST_CLASSES])
    more = f" and {len(tuned.classes) - MOST_CLASSES:,} others" if len(tuned.classes) > MOST_CLASSES else ""
    return f"{len(tuned.classes):,} classes, {names}{more}"


def is_ours(card: Path) -> bool:
    """Whether a README.md is a card that was written here."""
    return f"- {TAG}\n" in card.read_text(encoding="utf-8", errors="replace")


def table(rows: Rows) -> str:
    """Rows as Markdown."""
    lines = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows]
    return "\n".join(["| | |", "| --- | --- |", *lines, ""])


def image_rows(config: Config) -> Rows:
    """What an image goes through before the encoder sees it."""
    data, model = config.data, config.model
    size = data.size
    crop = own_crop(config)
    yield (
        "size",
        f"{size} x {size} pixels, RGB, {config.grid} x {config.grid} patches of {model.patch} pixels",
    )
    yield (
        "evaluation crop",
        f"short side to {int(size / crop.share)} ({crop.interpolation}), then the central {size} x {size}",
    )
    yield "training crop", f"{CROPS[data.crop]} ({data.interpolation}), flipped half of the time"
    yield "values", "divided by 255, less the mean, divided by the deviation"
    yield "mean, deviation", f"{', '.join(map(str, IMAGENET_MEAN))}; {', '.join(map(str, IMAGENET_STD))}"


def training_rows(run: Path, config: Config, state: checkpoint.State) -> Rows:
    """How the weights came to be."""
    name = recipe_of(run)
    model = config.model
    if isinstance(config, FinetuneConfig):
        published = published_finetune(model)
        own = {key: getattr(config.finetune, key) for key in ("classes", "weights")}
        base = replace(config, optim=published.optim, finetune=replace(published.finetune, **own))
        changed = differences(base, config)
    else:
        changed = differences(recipe(name) if name else Config(), config)
    low_passed = f", radius {model.radius:g} cycles" if model.target != "raw" else ""
    yield "method", method_text(config)
    yield (
        "target",
        f"{model.target}{low_passed}; each patch normalised by its own statistics: {model.norm_pix}",
    )
    yield (
        "mask",
        f"{model.mask}, {model.mask_ratio:g} of the units of {model.mask_unit} x {model.mask_unit} patches",
    )
    if isinstance(config, FinetuneConfig):
        yield from pretraining_rows(run)
        told = "the published fine-tuning's"
    else:
        yield "recipe", name or "none recorded"
        told = "the recipe's" if name else "the defaults"
    yield f"settings other than {told}", "; ".join(f"`{text}`" for text in changed) or "none"
    if (run / "import.json").exists():
        source = read_json(run / "import.json")
        yield "began with", f"{begun_in_words(source)}; the terms of those weights hold for these"
    records = [r for r in read_metrics(run / "metrics.jsonl") if r["step"] <= state.step]
    last = records[-1] if records else {}
    if state.fingerprint:
        yield "fingerprint of the data", state.fingerprint
    if last.get("epoch"):
        yield "samples of the data", f"{round(last['position'] / last['epoch']):,}"
    yield "steps", f"{state.step:,} of {last['steps']:,}" if last else f"{state.step:,}"
    yield "images seen", f"{state.position:,}"
    yield from measured(records)
    yield "versions of the training", ", ".join(f"{k} {v}" for k, v in state.versions.items())


def pretraining_rows(run: Path) -> Rows:
    """Of a fine-tuning's folder: what pre-trained its encoder, as far as its result.json tells."""
    found = read_json(run / "result.json") if (run / "result.json").exists() else {}
    source = found.get("run") or found.get("file")
    if isinstance(source, str):
        yield "pre-trained by", shown(source)
        yield "recipe of the pre-training", recipe_of(Path(source)) or "none recorded"


def measured(records: list[Record]) -> Rows:
    """The last numbers of a run's log."""
    if not records:
        return
    last = records[-1]
    if last["loss"] is not None:
        yield (
            f"training loss, mean of {last['window']} steps up to step {last['step']:,}",
            f"{last['loss']:.4f}",
        )
    heldout = [r for r in records if r.get("heldout_loss") is not None]
    if heldout:
        yield f"held-out loss at step {heldout[-1]['step']:,}", f"{heldout[-1]['heldout_loss']:.4f}"
    for key, text in (
        ("replaced_total", "samples that could not be decoded"),
        ("skipped_total", "steps skipped, as they were not finite"),
        ("rollbacks", "roll-backs"),
    ):
        if last.get(key):
            yield text, f"{last[key]:,}"


def results_of(run: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What RUN/eval/*.json, and a fine-tuning's result.json, say, by name."""
    if (run / RESULT).exists():
        yield OWN, read_json(run / RESULT)
    for path in sorted((run / "eval").glob("*.json")):
        yield path.stem, read_json(path)


def hub_results(run: Path, step: int) -> list[dict[str, Any]]:
    """The evaluations of a run's weights of a step as the Hugging Face Hub has them: accuracies, shares of 1.

    Not those of initial weights, of another step, or of weights that were fine-tuned since.  A fine-tuning's
    own result tells where it began.
    """
    tuned = (run / RESULT).exists()
    return [
        {
            "task": {"type": "image-classification", "name": name},
            "dataset": {"type": "imagefolder", "name": shown(found.get("test", "not named"))},
            "metrics": [
                {"type": "accuracy", "name": said, "value": round(value, 6)} for said, value in metrics
            ],
        }
        for name, found in results_of(run)
        if (name == OWN and tuned) or ("settings" not in found and _is_of(found, step))
        if (metrics := list(_accuracies(found)))
    ]


def _is_of(found: dict[str, Any], step: int) -> bool:
    """Whether a result is of the weights that training had after a step."""
    return found.get("weights") != "initial" and found.get("step", step) == step


def _accuracies(found: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The accuracies of a result by name: of the trained encoder alone."""
    yield from ((key, found[key]) for key in SHARES if isinstance(found.get(key), float))
    scores = found.get("scores")
    for feature, row in scores.items() if isinstance(scores, dict) else ():
        if feature.startswith("trained") and isinstance(row, dict):
            for column, value in row.items():
                if isinstance(value, float):
                    yield f"{feature.removeprefix('trained: ')}, {column}", value


def evaluations(run: Path) -> list[str]:
    """What RUN/eval/*.json say: single values as a list, scores by feature as a table."""
    parts = []
    for name, found in results_of(run):
        parts.append(f"### {name}\n")
        # a fine-tuning's own size is another line
        before_tuning = "pre-trained at " if name.startswith("finetune") else ""
        singles = [
            f"- {key}: {before_tuning * (key == 'encoder')}{shown(value, share=key in SHARES)}"
            for key, value in found.items()
            if isinstance(value, int | float | str)
        ]
        if singles:
            parts.append("\n".join([*singles, ""]))
        scores = found.get("scores")
        if isinstance(scores, dict) and scores and all(isinstance(row, dict) for row in scores.values()):
            columns = list(dict.fromkeys(key for row in scores.values() for key in row))
            lines = [f"| features | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
            for name, row in scores.items():
                cells = (shown(row.get(column, ""), share=True) for column in columns)
                lines.append(f"| {name} | {' | '.join(cells)} |")
            parts.append("\n".join([*lines, ""]))
    return parts


def shown(value: object, *, share: bool = False) -> str:
    """A value as a card has it: shares in %; of a path, which is nobody's business, the last two parts."""
    if isinstance(value, float):
        return f"{100 * value:.2f} %" if share else f"{value:.4g}"
    text = str(value)
    return "/".join(Path(text).parts[-2:]) if "/" in text else text


def read_json(path: Path) -> dict[str, Any]:
    """A file of the run.  Raises UserError if it is not a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}: mend it, or remove it") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object, but a {type(found).__name__}: mend it, or remove it")
    return found
