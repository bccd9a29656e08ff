"""`turbomim eval knn`: which class the nearest neighbours of an encoder's features have."""

from __future__ import annotations

from turbomim.train.commands.eval.frozen import Eval, score_frozen
from turbomim.train.evaluate.results import check_json
from turbomim.train.settings.flags import parse_with_settings


def eval_knn_command(argv: list[str]) -> None:
    """`turbomim eval knn …`.  Raises UserError."""
    options, settings = parse_with_settings(Eval, argv, "turbomim eval knn")
    check_json(options.json)
    score_frozen("knn", options, settings)
