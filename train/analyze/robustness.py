"""`turbomim analyze robustness`: what a frozen encoder's features are worth on images that were made worse.

The linear probe and the neighbours learn from clean train images and are scored on corrupted test images,
beside the same encoder with random weights.  Not ImageNet-C's mean corruption error, which divides by
another network's and fine-tunes: compare encoders that were measured by this command, on the same images.

Suffixes: B batch, N train samples, M test samples, D values of a feature, S the image's side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from turbomim.pipeline.decoding.centre_crops import note_left_out
from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.system.errors import to_stderr
from turbomim.pipeline.tars.split import Split
from turbomim.train.analyze.corruptions import (
    CORRUPTIONS,
    Corruption,
    Numbers,
    Pixels,
    generator,
    severities_of_size,
)
from turbomim.train.analyze.options import Robustness, analysis_folder
from turbomim.train.analyze.result import TextTable, prepare_folder, settings_of, write_analysis
from turbomim.train.encoder.crop import eval_crops
from turbomim.train.encoder.features import MEAN, CropBatches, encode, extract, trained_and_random
from turbomim.train.encoder.source import Source, load_source
from turbomim.train.evaluate.knn import NEIGHBOURS, knn
from turbomim.train.evaluate.probe import fit_linear_probe
from turbomim.train.evaluate.results import Scores, source_name
from turbomim.train.evaluate.scores import MEASURES
from turbomim.train.evaluate.splits import check_enough, check_samples, choose_ids, open_labelled
from turbomim.train.pictures.plot import INK, Line, label_axes, new_figure, plot_lines
from turbomim.train.settings.flags import check_least, parse_with_settings
from turbomim.train.terminal.progress import image_bar
from turbomim.train.world.distributed import choose_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBE, NEAREST = "linear probe", f"{NEIGHBOURS} neighbours"
# share of test samples classified correctly, of (features (M, D), labels (M,))
Scorer = Callable[[Tensor, Tensor], float]


def analyze_robustness_command(argv: list[str]) -> None:
    """`turbomim analyze robustness RUN --train SHARDS --test SHARDS`.  Raises UserError."""
    options, of_file = parse_with_settings(Robustness, argv, "turbomim analyze robustness")
    check_least(test_samples=(options.test_samples, 0), batch=(options.batch, 1))
    check_seed("--seed", options.seed)
    check_samples(options.samples, MEASURES)
    source = load_source(options.run, of_file)
    train, test = open_labelled(options.train, options.test, MEASURES)
    out = prepare_folder(options.out or analysis_folder(options.run), "robustness")
    ids_N, ids_M = choose_ids(train, options.samples), choose_ids(test, options.test_samples)
    score, learned = learn_to_score(source, train, ids_N, options)
    size = source.config.data.size
    left_out: set[int] = set()
    leave_out = partial(note_left_out, left_out)
    clean = list(eval_crops(test, ids_M, size=size, batch=options.batch, left_out=leave_out))
    ids_M = np.delete(ids_M, sorted(left_out))
    published, table = severities_of_size(size)
    corruptions: dict[str, Any] = {}
    results: dict[str, Any] = {
        "step": source.step,
        "clean": score(clean),
        "corruptions": corruptions,
    }
    for name, values in table.items():
        to_stderr(f"{name}, {len(corruptions) + 1} of {len(table)}")
        worse = [corrupted(clean, ids_M, CORRUPTIONS[name], value, options.seed) for value in values]
        corruptions[name] = {"parameters": list(values), "severities": [score(batches) for batches in worse]}
    results["mean"] = mean_accuracies(results)
    settings = settings_of(
        options,
        samples=learned,
        test_samples=len(ids_M),
        parameters_of=published,
        fingerprint=test.manifest.fingerprint,
        train_fingerprint=train.manifest.fingerprint,
    )
    title = f"{source_name(source.facts)}: {len(ids_M)} images of {options.test}, accuracy in %"
    write_analysis(
        out,
        "robustness",
        runs=[options.run],
        settings=settings,
        results=results,
        table=table_of_accuracies(results, title),
        draw=lambda: draw_accuracies(results, published),
    )


def learn_to_score(
    source: Source, train: Split, ids_N: NDArray[np.int64], options: Robustness
) -> tuple[Callable[[CropBatches], Scores], int]:
    """What gives the scores of test images by encoder and measure, and how many clean images they learn from.

    Raises UserError: too few images.
    """
    device = choose_device(options.device, 0)
    encoders = {
        name: each.to(device).eval() for name, each in trained_and_random(source.model, source.config).items()
    }

    def means_of(images_BHWC: Tensor) -> dict[str, Tensor]:
        return {name: encode(each, images_BHWC)[MEAN] for name, each in encoders.items()}

    crops = eval_crops(train, ids_N, size=source.config.data.size, batch=options.batch)
    with image_bar(Console(), lines=False) as bar:
        learned = extract(crops, means_of, device, partial(bar.show, total=len(ids_N)))
    check_enough(train, len(learned.labels_N), MEASURES)
    scorers = {name: scorers_of(train_ND, learned.labels_N) for name, train_ND in learned.by_name.items()}

    def score(batches: CropBatches) -> Scores:
        found = extract(batches, means_of, device)
        return {
            name: {measure: scorer(test_MD, found.labels_N) for measure, scorer in scorers[name].items()}
            for name, test_MD in found.by_name.items()
        }

    return score, len(learned.labels_N)


def corrupted(
    batches: CropBatches, ids_M: NDArray[np.int64], corruption: Corruption, value: Numbers, seed: int
) -> CropBatches:
    """The images (B, S, S, 3) of each batch, corrupted, and their labels; ids: of all of them, in order."""
    ids = iter(ids_M.tolist())
    for images, labels_B in batches:
        yield np.stack([corrupt(image, corruption, value, seed, next(ids)) for image in images]), labels_B


def corrupt(image_SSC: Pixels, corruption: Corruption, value: Numbers, seed: int, sample_id: int) -> Pixels:
    """One image, corrupted: a function of these arguments and of nothing else."""
    numbers = value if isinstance(value, tuple) else (value,)
    return corruption(image_SSC, *numbers, generator(seed, sample_id))


def scorers_of(train_ND: Tensor, labels_N: Tensor) -> dict[str, Scorer]:
    """What scores test features by train features: the linear probe, fitted once, and the neighbours."""
    return {
        PROBE: fit_linear_probe(train_ND, labels_N).accuracy,
        NEAREST: lambda test_MD, labels_M: knn(train_ND, labels_N, test_MD, labels_M).majority,
    }


def mean_accuracies(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Accuracy over all corruptions and severities, by encoder and measure."""
    every = [scores for found in results["corruptions"].values() for scores in found["severities"]]
    return {
        name: {measure: float(np.mean([scores[name][measure] for scores in every])) for measure in measures}
        for name, measures in results["clean"].items()
    }


def table_of_accuracies(results: Mapping[str, Any], title: str) -> TextTable:
    """Clean, each corruption over its severities, and all, by encoder and measure."""
    columns = [(name, measure) for name, measures in results["clean"].items() for measure in measures]

    def row(label: str, *scores: Mapping[str, Mapping[str, float]]) -> list[str]:
        return [
            label,
            *(f"{100 * np.mean([s[name][measure] for s in scores]):.1f}" for name, measure in columns),
        ]

    return TextTable(
        title=title,
        columns=["images", *(f"{name}: {measure}" for name, measure in columns)],
        rows=[
            row("clean", results["clean"]),
            *(row(name, *found["severities"]) for name, found in results["corruptions"].items()),
            row("all corrupted", results["mean"]),
        ],
    )


def draw_accuracies(results: Mapping[str, Any], source: str) -> Figure:
    """A panel a corruption: accuracy over severity, 0 is clean; the probe solid, neighbours dashed."""
    figure = new_figure(9, 6.6)
    panels = figure.subplots(3, 4, sharex=True, sharey=True).flatten()
    for panel, (corruption, found) in zip(panels, results["corruptions"].items(), strict=False):
        levels = [results["clean"], *found["severities"]]
        plot_lines(
            panel,
            [
                Line(
                    name=f"{name}: {measure}",
                    x_N=np.arange(len(levels), dtype=np.float64),
                    y_N=np.array([100 * scores[name][measure] for scores in levels]),
                    colour=number,
                    look="" if measure == PROBE else "dashed",
                )
                for number, (name, measures) in enumerate(results["clean"].items())
                for measure in measures
            ],
        )
        panel.set_title(corruption, fontsize=10, color=INK)
        label_axes(panel, "", "")
    figure.supxlabel(f"severity ({source}'s), 0 is clean", fontsize=10, color=INK)
    figure.supylabel("accuracy, %", fontsize=10, color=INK)
    drawn = len(results["corruptions"])
    for panel in panels[drawn:]:
        panel.axis("off")
    # the lowest panel of each column
    for panel in panels[drawn - 4 : drawn]:
        panel.tick_params(labelbottom=True)
    panels[-1].legend(handles=panels[0].lines, loc="center", fontsize=8, frameon=False)
    return figure
