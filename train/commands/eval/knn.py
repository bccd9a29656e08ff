"""`turbomim eval knn`: frozen features scored by their nearest neighbours."""

from turbomim.train.api.evaluate import evaluate
from turbomim.train.commands.eval.options import Eval
from turbomim.train.evaluate.results import print_table
from turbomim.train.settings.flags import arguments_of, parse_with_settings


def eval_knn_command(argv: list[str]) -> None:
    """`turbomim eval knn …`: the classes of the nearest neighbours.  Raises UserError."""
    options, flags = parse_with_settings(Eval, argv, "turbomim eval knn")
    print_table(evaluate(measure="knn", notify=print, **arguments_of(options), **flags))
