"""A run with nothing automatic left: its settings, plan and loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.train.machine.measurements import Tuned
from turbomim.train.machine.presets import apply_preset
from turbomim.train.machine.tuned_loader import rank_speed
from turbomim.train.machine.tuned_step import StepSettings, resolve_step
from turbomim.train.settings.config import AnyConfig
from turbomim.train.settings.plan import Plan, make_plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved(Generic[AnyConfig]):
    """What a rank trains with; every rank has the same settings and plan, and the loader of its machine.

    tuned_step: the measurement of this machine that was used, None where nothing of the step is automatic.
    """

    config: AnyConfig
    plan: Plan
    loader: LoaderSpeed
    tuned_step: Tuned[StepSettings] | None


def resolve(
    config: AnyConfig,
    samples: int,
    *,
    ranks: int,
    local_ranks: int = 1,
    preset: str | None = None,
    tuned_step: Tuned[StepSettings] | None = None,
    tuned_loader: Tuned[LoaderSpeed] | None = None,
) -> Resolved[AnyConfig]:
    """Settle everything that is automatic, once; global batch and learning rate stay as they are.

    The micro-batch is the first that there is of:

    1. `optim.micro_batch`, with which no preset may be given;
    2. the preset's;
    3. what `turbomim tune step` measured here;
    4. all samples of a rank.

    samples: of the training split; local_ranks: of this machine.  Raises UserError: a preset that does not
    know the model or that a set micro-batch contradicts, a batch that does not divide.
    """
    if preset is not None:
        config = apply_preset(config, preset, ranks)
    tuned = resolve_step(config, tuned_step, ranks)
    return Resolved(
        config=tuned,
        plan=make_plan(tuned, samples, ranks),
        loader=rank_speed(config.data, tuned_loader, local_ranks),
        tuned_step=None if tuned == config else tuned_step,
    )
