"""`turbomim eval knn`: which class the nearest neighbours of an encoder's features have."""

from __future__ import annotations

from turbomim.train.commands.eval.frozen import Eval, score_frozen
from turbomim.train.evaluate.results import check_json
from turbomim.train.settings.flags import flag_values, parse, split_words


def command(argv: list[str]) -> None:
    """`turbomim eval knn …`.  Raises UserError."""
    own, settings = split_words(argv)
    options = parse(Eval, own, "turbomim eval knn")
    check_json(options.json)
    score_frozen("knn", options, flag_values(settings))
