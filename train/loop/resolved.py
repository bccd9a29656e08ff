"""What a run decides by itself of its step: the micro-batch, and what goes with it."""

from turbomim.train.machine.measurements import Tuned
from turbomim.train.machine.presets import apply_preset
from turbomim.train.machine.tuned_step import StepSettings, resolve_step
from turbomim.train.settings.config import AnyConfig


def resolve(
    config: AnyConfig,
    *,
    ranks: int,
    preset: str | None = None,
    tuned_step: Tuned[StepSettings] | None = None,
) -> tuple[AnyConfig, Tuned[StepSettings] | None]:
    """Settle what is automatic of the step, once; global batch and learning rate stay as they are.

    The micro-batch is taken from the first of these that is set:

    1. `optim.micro_batch`, with which no preset may be given;
    2. the preset's;
    3. what `turbomim tune step` measured here;
    4. all samples of a rank.

    Returns the settings, and the measurement that they used, None if none.  Raises UserError: a preset that
    does not know the model or that a set micro-batch contradicts.
    """
    if preset is not None:
        config = apply_preset(config, preset, ranks)
    resolved = resolve_step(config, tuned_step, ranks)
    return resolved, None if resolved == config else tuned_step
