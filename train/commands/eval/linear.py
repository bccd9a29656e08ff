"""`turbomim eval linear`: the solved probe, or with --recipe published the one that papers report."""

from typing import Any

from rich.console import Console

from turbomim.pipeline.system.words import counted
from turbomim.train.api.evaluate import evaluate
from turbomim.train.commands.eval.options import EvalLinear
from turbomim.train.evaluate.results import left_out_words, print_table, source_name
from turbomim.train.settings.flags import arguments_of, parse_with_settings
from turbomim.train.terminal.streams import print_plain


def eval_linear_command(argv: list[str]) -> None:
    """`turbomim eval linear …`.  Raises UserError."""
    options, flags = parse_with_settings(EvalLinear, argv, "turbomim eval linear")
    result = evaluate(measure="linear", notify=print, **arguments_of(options), **flags)
    if options.recipe == "solved":
        print_table(result)
    else:
        print_plain(Console(), published_in_words(result))


def published_in_words(result: dict[str, Any]) -> str:
    """A result of the published probe, in lines."""
    crops = f"{'random' if result['augment'] else 'central'} crops"
    lines = [
        f"{source_name(result)}: {counted(result['steps'], 'step')} of {result['head_batch']:,} {crops}, "
        f"{counted(result['test_samples'], 'test image')}{left_out_words(result, 'test')}"
    ]
    for name, scores in result["scores"].items():
        shares = [f"{what.split(', ')[1]} {100 * share:.2f} %" for what, share in scores.items()]
        lines.append(f"{name}: {', '.join(shares)}")
    return "\n".join(lines)
