"""Results of bench.py: kept a line a run, so that a second call goes on, as a table and as a plot.

speedrun.py keeps its lines the same way, and has a table of its own.

A line is one recipe with one seed.  Shares are shown in %, mean ± sample standard deviation over the seeds.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from turbomim.pipeline.system.durable import write_durably, write_json
from turbomim.pipeline.system.errors import UserError
from turbomim.train.encoder.features import MEAN, PIXELS
from turbomim.train.folder.log import read_metrics

# what the plot and the table show
TRAINED, RANDOM = f"trained: {MEAN}", f"random weights: {MEAN}"
MEASURED = ("20 neighbours", "weighted", "linear probe")
# what the table shows besides, where it is there
FINETUNED = "fine-tuned"

# name, seed, images, losses [[images, loss], …], scores {features: {measure: share}}, and more; minutes where
# they are known, finetune {epochs, top1, top5} where it was asked for
Line = dict[str, Any]


def begin(out: Path, asked: dict[str, Any], kind: str = "learning") -> list[Line]:
    """Lines that an earlier call with the same settings kept in `out`; a new folder notes the settings.

    kind: of results, which names the files.  Raises UserError if the folder holds something else, or results
    of other settings.
    """
    note = out / f"{kind}.json"
    if not note.exists():
        if out.exists() and any(out.iterdir()):
            raise UserError(f"--out {out} is not empty and holds no {note.name}: choose a new folder")
        write_json(note, asked)
        return []
    try:
        before = dict(json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{note} holds no settings ({error}): choose a new --out") from error
    changed = [
        f"{key} {before.get(key)} -> {value}" for key, value in asked.items() if before.get(key) != value
    ]
    if changed:
        raise UserError(
            f"--out {out} holds results of other settings ({', '.join(changed)}): choose a new one"
        )
    return read_metrics(out / f"{kind}.jsonl")


def keep(lines: list[Line], out: Path, kind: str = "learning") -> None:
    """Write every line of results to the file of this kind, whole or not at all."""
    write_durably(out / f"{kind}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def by_recipe(lines: list[Line]) -> dict[str, list[Line]]:
    """Lines of each recipe, one a seed, in the order in which recipes first come."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["name"], []).append(line)
    return groups


def shown(lines: list[Line]) -> list[tuple[str, list[dict[str, float]], list[Line]]]:
    """Rows of table and plot: a name, scores by measure of each seed, the lines if they are of training.

    Pixels know no seed; random weights are the first recipe's encoder with each of its seeds.
    """
    first, *_ = groups = by_recipe(lines)
    trained = [(name, [line["scores"][TRAINED] for line in some], some) for name, some in groups.items()]
    return [
        (PIXELS, [lines[0]["scores"][PIXELS]], []),
        ("random weights", [line["scores"][RANDOM] for line in groups[first]], []),
        *trained,
    ]


def measured(lines: list[Line]) -> tuple[str, ...]:
    """Measures that every line has."""
    return (*MEASURED, FINETUNED) if all("finetune" in line for line in lines) else MEASURED


def share(line: Line, measure: str) -> float:
    """What a trained encoder scored, as a share of the test images."""
    return float(line["finetune"]["top1"] if measure == FINETUNED else line["scores"][TRAINED][measure])


def spread(shares: list[float]) -> float:
    """Sample standard deviation in %; 0 of a single share."""
    return 100 * statistics.stdev(shares) if len(shares) > 1 else 0.0


def table(lines: list[Line]) -> str:
    """Markdown: seeds, images seen, minutes, and scores in %."""
    measures = measured(lines)
    text = [
        f"| features ({MEAN}) | seeds | images seen | minutes | {' | '.join(measures)} |",
        f"|---|{'---:|' * (3 + len(measures))}",
    ]
    for name, scores, runs in shown(lines):
        images = f"{statistics.fmean(line['images'] for line in runs):,.0f}" if runs else ""
        known = [line["minutes"] for line in runs if "minutes" in line]
        minutes = f"{statistics.fmean(known):.1f}" if known else ""
        seeds = "" if name == PIXELS else len(scores)
        cells = []
        for measure in measures:
            if measure == FINETUNED and not runs:
                cells.append("")
                continue
            shares = [share(line, measure) for line in runs] or [score[measure] for score in scores]
            about = f" ± {spread(shares):.1f}" if len(shares) > 1 else ""
            cells.append(f"{100 * statistics.fmean(shares):.1f}{about}")
        text.append(f"| {name} | {seeds} | {images} | {minutes} | {' | '.join(cells)} |")
    return "\n".join(text)


def plot(lines: list[Line], path: Path) -> None:
    """Losses over images seen, every seed, and accuracies before and after with their spread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for place, (name, runs) in enumerate(by_recipe(lines).items()):
        for number, line in enumerate(runs):
            positions, losses = zip(*line["losses"], strict=True)
            label = name if number == 0 else None
            left.plot([p / 1000 for p in positions], losses, color=f"C{place}", lw=1, label=label)
    left.set(xlabel="thousand images seen", ylabel="masked-patch loss", title="pre-training")
    left.legend(fontsize="small")
    rows = shown(lines)
    for place, measure in enumerate(("20 neighbours", "linear probe")):
        shares = [[score[measure] for score in scores] for _, scores, _ in rows]
        at = [row + 0.4 * (place - 0.5) for row in range(len(rows))]
        means, spreads = [100 * statistics.fmean(some) for some in shares], [spread(some) for some in shares]
        bars = right.barh(at, means, xerr=spreads if any(spreads) else None, height=0.38, label=measure)
        right.bar_label(bars, fmt="%.1f", padding=2, fontsize="small")
    right.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize="small")
    right.invert_yaxis()
    right.set(xlabel="% of test images correct", title=f"frozen features, {MEAN}")
    right.margins(x=0.12)
    right.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
