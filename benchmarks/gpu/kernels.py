"""The kernels beside the usual forms: µs for 1,000 images, and the share of a copy's bandwidth."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import torch

from turbomim.benchmarks.gpu.stage import Place, Row, attempt
from turbomim.benchmarks.kernels.bench import Question, copy_bandwidth, measure, questions


def rows(place: Place) -> Iterator[Row]:
    """Every form of every question, each compared with float64 before it is timed."""
    device = torch.device(place.device)
    batch, rounds, calls = (1024, 9, 20) if place.on_gpu else (4, 2, 1)
    copied = copy_bandwidth(device)

    def lines(question: Question) -> Iterator[Row]:
        for line, _ in measure(question, batch, rounds, calls, copied):
            yield json.loads(line)

    for question in questions(device, batch):
        yield from attempt(question.name, functools.partial(lines, question))
