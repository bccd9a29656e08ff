"""The comparison as people read it.  Pure functions of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from turbomim.benchmarks.tables import markdown_table

# what is asked of a reader: both epochs timed, an epoch counted, a model trained
EPOCHS, EXACT, TRAINED = "epochs", "exactly", "training"

Answers = dict[int, dict[str, Any]]

READ: Final = (
    *("reader", "epoch", "img/s (range)", "× folder", "CPU s, reader", "CPU s, server"),
    *("requests per 1,000", "fetched / wanted", "memory, MB"),
)
TRAIN: Final = ("training on", "img/s (range)", "× folder", "waiting", "CPU s, trainer", "CPU s, server")
COUNT: Final = ("an epoch of ours", "requests per 1,000", "fetched / wanted", "hits of the cache")


@dataclass(kw_only=True, slots=True)
class Row:
    """What is known of a reader: its answers by what was asked and by round; failure: why it has no more."""

    name: str
    failure: str = ""
    answers: dict[str, Answers] = field(default_factory=dict)


def tables(rows: Sequence[Row], reference: str) -> str:
    """Markdown: rates of readers, of training, exact counts, and what failed."""
    known = {row.name: row for row in rows}
    base, counted = known[reference].answers, [row for row in rows if EXACT in row.answers]
    # bytes that an image needs, of the same photographs for all
    needs = next((_wanted(row.answers[EXACT][0]) for row in counted), 0.0)
    blocks = [
        [READ, *(line for row in rows for line in _reading(row, base.get(EPOCHS, {}), needs))],
        [TRAIN, *(_training(row, base[TRAINED]) for row in rows if TRAINED in row.answers)],
        [COUNT, *(line for row in counted for line in _counts(row))],
    ]
    texts = [markdown_table(lines, words=1) for lines in blocks if len(lines) > 1]
    failures = "\n".join(f"- {row.name}: {row.failure}" for row in rows if row.failure)
    return "\n\n".join([*texts, failures] if failures else texts)


def _wanted(count: dict[str, Any]) -> float:
    return float(count["wanted_bytes"] / count["images"])


def _reading(row: Row, base: Answers, needs: float) -> list[tuple[str, ...]]:
    """A line an epoch."""
    lines: list[tuple[str, ...]] = []
    for epoch in (0, 1) if EPOCHS in row.answers else ():

        def of(answers: Answers, epoch: int = epoch) -> Answers:
            return {number: answer["epochs"][epoch] for number, answer in answers.items()}

        here = of(row.answers[EPOCHS])
        # a loader of ours has read the next epoch ahead
        fetched = row.answers.get(EXACT, here)
        images, sent = _middle(fetched, "images"), _middle(fetched, "sent_bytes")
        lines.append(
            (
                row.name,
                str(epoch + 1),
                _rates(here),
                _ratio(here, of(base)),
                f"{_middle(here, 'cpu_s'):.2f}",
                f"{_middle(here, 'server_cpu_s'):.2f}",
                f"{1000 * _middle(fetched, 'requests') / images:,.0f}",
                f"{sent / images / needs:.3f}" if needs else "",
                f"{_middle(here, 'memory_mb'):,.0f}",
            )
        )
    return lines


def _training(row: Row, base: Answers) -> tuple[str, ...]:
    here = row.answers[TRAINED]
    return (
        row.name,
        _rates(here),
        _ratio(here, base, digits=3),
        f"{_middle(here, 'wait_pct'):.2f} %",
        f"{_middle(here, 'cpu_s'):.2f}",
        f"{_middle(here, 'server_cpu_s'):.2f}",
    )


def _counts(row: Row) -> list[tuple[str, ...]]:
    """A line for what a reader fetches, and one for each share of its cache."""
    lines: list[tuple[str, ...]] = []
    for what, answers in row.answers.items():
        count = answers[0]
        if "wanted_bytes" in count:
            fetched = count["sent_bytes"] / count["wanted_bytes"]
            lines.append(
                (
                    row.name if what == EXACT else f"{row.name}, {what}",
                    f"{1000 * count['requests'] / count['images']:,.0f}",
                    f"{fetched:.4f}",
                    f"{100 * count['hits'] / count['images']:.1f} %",
                )
            )
    return lines


def _middle(answers: Answers, name: str) -> float:
    return median(float(answer[name]) for answer in answers.values())


def _rates(answers: Answers) -> str:
    rates = [answer["images_per_s"] for answer in answers.values()]
    return f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def _ratio(answers: Answers, base: Answers, digits: int = 2) -> str:
    """Median of the rounds' ratios."""
    rate: Callable[[dict[str, Any]], float] = lambda answer: answer["images_per_s"]  # noqa: E731
    ratios = [rate(answers[number]) / rate(base[number]) for number in answers if number in base]
    return f"{median(ratios):.{digits}f}" if ratios else ""
