"""How a step is cut and compiled where that is automatic: what `turbomim tune step` measured here."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from turbomim.train.machine.measurements import MeasurementFile, Tuned, TunedFile, machine_name
from turbomim.train.settings.config import AnyConfig, Config
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.plan import largest_divisor
from turbomim.train.settings.precision import precision_name, uses_bfloat16
from turbomim.train.world.distributed import World

# settings of the model that a key has in other words: the method itself, and a name for some of the sizes
NAMES = ("method", "encoder")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSettings:
    """How fast a step is and what memory it needs, never what it gives but for rounding."""

    micro_batch: int
    compile_mode: Literal["default", "reduce-overhead"] = "default"
    recompute: bool = False

    def __post_init__(self) -> None:
        if (
            type(self.micro_batch) is not int
            or self.micro_batch < 1
            or self.compile_mode not in ("default", "reduce-overhead")
            or type(self.recompute) is not bool
        ):
            raise ValueError(f"no settings of a step: {asdict(self)}")

    def in_words(self) -> str:
        """As people read it."""
        mode = "" if self.compile_mode == "default" else f", compile mode {self.compile_mode}"
        return f"micro-batch {self.micro_batch}{mode}{', recompute' * self.recompute}"


TUNED_STEP = TunedFile(
    file=MeasurementFile(name="step.json", format="turbomim-step-1", made_by="`turbomim tune step`"),
    kind=StepSettings,
)


def with_settings(config: AnyConfig, settings: StepSettings) -> AnyConfig:
    """The configuration with these settings of the step."""
    step = replace(config.step, compile_mode=settings.compile_mode, recompute=settings.recompute)
    optim = replace(config.optim, micro_batch=settings.micro_batch)
    return replace(config, step=step, optim=optim)


def resolve_step(config: AnyConfig, tuned: Tuned[StepSettings] | None, ranks: int) -> AnyConfig:
    """The configuration with an automatic micro-batch as tuned: the largest that divides a rank's samples.

    Global batch and learning rate stay; CUDA graphs are left out where they cannot be.  Nothing changes where
    the micro-batch is set, or nothing was tuned.
    """
    if config.optim.micro_batch or tuned is None:
        return config
    images = config.optim.global_batch // ranks
    settings = replace(tuned.settings, micro_batch=largest_divisor(images, tuned.settings.micro_batch))
    if settings.micro_batch < images or config.step.shard:
        # CUDA graphs take one micro-step, of whole weights
        settings = replace(settings, compile_mode="default")
    return with_settings(config, settings)


def about_step(config: Config, tuned: Tuned[StepSettings] | None) -> list[str]:
    """A line on how a resolved step is cut and compiled; none where nothing of it was measured here."""
    if tuned is None:
        return []
    chosen = StepSettings(
        micro_batch=config.optim.micro_batch,
        compile_mode=config.step.compile_mode,
        recompute=config.step.recompute,
    )
    return [f"step: {chosen.in_words()}, tuned on this machine on {tuned.date}, see {TUNED_STEP.file.path}"]


def step_key(config: Config, world: World) -> str:
    """What a measurement holds for: the machine, the model, its size, and how it computes.

    Of the model every setting that is not the default, whatever it is: models that differ share no entry.
    """
    kind = precision_name(bfloat16=uses_bfloat16(config.step, world.device))
    settings = {f.name: getattr(config.model, f.name) for f in fields(config.model) if f.name not in NAMES}
    usual = asdict(ModelConfig())
    model = ", ".join(f"{name} {value}" for name, value in settings.items() if value != usual[name])
    return (
        f"{machine_name(world.device)}; {config.model.method}{f' with {model}' * bool(model)}; "
        f"{config.data.size} pixels, {kind}, {'compiled' if config.step.compile else 'eager'}"
    )
