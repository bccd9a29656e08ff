"""Which runs' losses and scores mean the same, and may be set beside each other."""

import os
from collections.abc import Callable, Sequence

from turbomim.train.report.run import RunFacts
from turbomim.train.settings.config import Config

LOSSES = {"training": "loss", "held-out": "heldout_loss"}
# a loss means something else where one of these differs: the reason, and what decides it
DECIDES_LOSS: dict[str, Callable[[Config], object]] = {
    "another kind of loss (L1 on pixels, or squares)": lambda c: c.model.method.startswith("simmim"),
    "other targets": lambda c: (c.model.target, c.model.target != "raw" and c.model.radius),
    "other normalisation of the targets": lambda c: (c.model.norm_pix, c.model.norm_window),
    "other patches": lambda c: (c.model.patch, c.data.size),
    "other masks": lambda c: (c.model.mask, c.model.mask_ratio, c.model.mask_unit * c.model.patch),
    "other crops": lambda c: (c.data.crop, c.data.crop == "rrc" and c.data.rrc_scale, c.data.interpolation),
}
# what a score of `turbomim eval` was measured on; it means something else where one of these differs
DECIDES_SCORE = ("train", "train_samples", "test", "test_samples", "size")


def find_incomparable(runs: Sequence[RunFacts]) -> list[str]:
    """What keeps losses and scores of the runs from being compared with the first one's, and other seeds."""
    return [line for other in runs[1:] for line in _differences(runs[0], other)]


def comparable_groups(runs: Sequence[RunFacts]) -> list[list[RunFacts]]:
    """The runs in groups, of which each has losses that may share a chart; in the runs' order.

    Data that are perhaps others do not part two runs.
    """
    groups: list[list[RunFacts]] = []
    for run in runs:
        home = next((group for group in groups if not any(_parted(one, run) for one in group)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return groups


def _parted(one: RunFacts, other: RunFacts) -> bool:
    return any(_other_tasks(one, other) or _other_data(one, other, kind) for kind in _kinds(one, other))


def _differences(one: RunFacts, other: RunFacts) -> list[str]:
    names = f"{one.label} and {other.label}"
    found = []
    for kind in _kinds(one, other):
        why = _other_tasks(one, other) + (
            _other_data(one, other, kind) or _perhaps_other_data(one, other, kind)
        )
        if why:
            found.append(f"{kind} losses of {names} are not comparable: {', '.join(why)}")
    a, b = one.config, other.config
    if a and b and a.run.seed != b.run.seed:
        seeds = f"({a.run.seed} and {b.run.seed})"
        found.append(f"{names} have other seeds {seeds}: initial weights, order, crops and masks differ")
    return found + _other_scores(one, other)


def _kinds(one: RunFacts, other: RunFacts) -> list[str]:
    """Which losses both runs have logged."""
    runs = one, other
    return [kind for kind, key in LOSSES.items() if all(any(key in r for r in run.records) for run in runs)]


def _other_tasks(one: RunFacts, other: RunFacts) -> list[str]:
    """How what two runs must predict differs; nothing if it is the same."""
    a, b = one.config, other.config
    unread = [run.label for run in (one, other) if not run.config]
    if a is None or b is None:
        return [f"the settings of {' and '.join(unread)} are not known"]
    return [reason for reason, of in DECIDES_LOSS.items() if of(a) != of(b)]


def _other_data(one: RunFacts, other: RunFacts, kind: str) -> list[str]:
    """How the data of two runs differ; nothing if they are the same, or not known to differ."""
    a, b = one.fingerprint(kind), other.fingerprint(kind)
    return [f"other data (fingerprints {a[:12]} and {b[:12]})"] if a and b and a != b else []


def _perhaps_other_data(one: RunFacts, other: RunFacts, kind: str) -> list[str]:
    """Which data may differ: of other places, where a fingerprint is not known."""
    here, there = one.splits.get(kind), other.splits.get(kind)
    if one.fingerprint(kind) and other.fingerprint(kind):
        return []
    if here is None or there is None or os.path.abspath(here[0]) == os.path.abspath(there[0]):
        return []
    return [f"perhaps other data ({here[0]} and {there[0]}; a fingerprint is not known)"]


def _other_scores(one: RunFacts, other: RunFacts) -> list[str]:
    """Which scores that both runs have were measured on other images, or at another size."""
    found = []
    for name in (name for name in one.evals if name in other.evals):
        a, b = one.evals[name], other.evals[name]
        both = [key for key in DECIDES_SCORE if key in a and key in b and a[key] != b[key]]
        if both:
            why = ", ".join(f"{key} {a[key]} and {b[key]}" for key in both)
            found.append(f"{name} of {one.label} and {other.label} was not measured on the same: {why}")
    return found
