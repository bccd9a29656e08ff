"""`turbomim eval finetune`: an encoder fine-tuned as published; settings as of pretrain, and a section."""

from turbomim.train.api.evaluate import evaluate
from turbomim.train.commands.eval.options import Finetune
from turbomim.train.settings.finetune import FinetuneConfig
from turbomim.train.settings.flags import arguments_of, parse_with_settings


def eval_finetune_command(argv: list[str]) -> None:
    """`turbomim eval finetune …`.  Raises UserError."""
    options, flags = parse_with_settings(Finetune, argv, "turbomim eval finetune", FinetuneConfig)
    evaluate(measure="finetune", notify=print, **arguments_of(options), **flags)
