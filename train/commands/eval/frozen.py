"""`turbomim eval knn`, and what `eval linear` shares with it: frozen encoders are scored, results kept."""

from turbomim.train.commands.eval.options import Eval
from turbomim.train.encoder.source import load_source
from turbomim.train.evaluate.results import check_json, print_table, write_result
from turbomim.train.evaluate.scores import evaluate_model
from turbomim.train.evaluate.splits import check_samples
from turbomim.train.settings.dictionary import Values
from turbomim.train.settings.flags import check_least, parse_with_settings


def eval_knn_command(argv: list[str]) -> None:
    """`turbomim eval knn …`: the classes of the nearest neighbours.  Raises UserError."""
    options, settings = parse_with_settings(Eval, argv, "turbomim eval knn")
    check_json(options.json)
    score_frozen("knn", options, settings)


def score_frozen(measure: str, options: Eval, flags: Values) -> None:
    """Score a run by one measure, print a table, write the JSON file.

    Raises UserError: no run, no checkpoint, splits that cannot be compared.
    """
    check_samples(options.samples, [measure])
    check_least(batch=(options.batch, 1))
    source = load_source(options.run, flags)
    result = {**source.facts, **evaluate_model(source.model, source.config, [measure], options)}
    print_table(result)
    if line := write_result(result, measure, options.json):
        print(line)
