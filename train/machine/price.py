"""What a run will take: batch, steps, hours, memory and disk, from the settings alone."""

from turbomim.train.machine.matmul_rate import BF16_FLOPS, about_peak, flops_text
from turbomim.train.machine.memory import GIB, device_bytes
from turbomim.train.machine.predicted_memory import MemoryParts, count_parameters, predicted_bytes
from turbomim.train.machine.presets import find_gpu
from turbomim.train.models.methods import mean_flops
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import Plan
from turbomim.train.settings.precision import uses_bfloat16
from turbomim.train.world.distributed import World

# photographs of ImageNet-1k's training split
IMAGENET = 1_281_167
# share of the datasheet's rate that a run without a given img/s is priced at
MFU = 0.4
# the GPU that is assumed where none is named
ASSUMED = "a100-80g"

# side of the images of recipes for ImageNet, pixels, at least
SMALLEST_PRICED = 160

NOT_COUNTED = "without the loader's and DALI's buffers"


def price_table(
    config: Config, plan: Plan, source: str, *, img_per_s: float | None, preset: str | None
) -> list[tuple[str, str]]:
    """(what, how much) of a run in bfloat16 on GPUs, as people read it."""
    gpu, optim = find_gpu(preset or ASSUMED), config.optim
    datasheet, flops = BF16_FLOPS[gpu.name], mean_flops(config, plan.steps)
    rate = img_per_s or MFU * datasheet / flops
    basis = (
        "given"
        if img_per_s
        else f"assumed, not measured: {MFU:.0%} of the datasheet's {flops_text(datasheet)} of an {gpu.name}, "
        f"{flops_in_words(flops)}"
    )
    hours = plan.steps * plan.global_batch / (rate * plan.world) / 3600
    memory = step_memory(config, plan, bfloat16=True)
    fits = (
        f"of {gpu.memory_gib:.0f} GiB"
        if memory.total < gpu.memory_gib * GIB
        else (
            f"more than the {gpu.memory_gib:.0f} GiB there are: --preset, a smaller --optim.micro-batch or "
            "--step.recompute true need less"
        )
    )
    count, one = count_parameters(config), checkpoint_bytes(config)
    return [
        ("photographs", f"{plan.samples:,} ({source})"),
        (
            "model",
            f"{(count.trained + count.fixed) / 1e6:.1f} M parameters, {flops_in_words(flops)}",
        ),
        (
            "batch",
            f"{plan.global_batch} = {plan.micro_batch} x {plan.micro_steps} x {plan.world} (micro-batch x "
            f"accumulation x ranks), {plan.local_batch} a rank",
        ),
        ("learning rate", f"{optim.lr:g} = {optim.base_lr:g} x {plan.global_batch}/{optim.lr_batch}"),
        ("steps", f"{plan.steps:,} = {optim.epochs:g} epochs"),
        ("rate", f"{rate:,.0f} img/s a GPU ({basis}), {rate * plan.world:,.0f} img/s in all"),
        ("time", f"{hours:,.1f} hours, {hours * plan.world:,.0f} GPU-hours"),
        ("memory of a rank", f"{memory.in_words()}, {fits}; predicted, {NOT_COUNTED}"),
        (
            "checkpoints",
            f"{one / GIB:.2f} GiB each, {config.run.keep} kept and one being written: "
            f"{(config.run.keep + 1) * one / GIB:.1f} GiB of disk",
        ),
    ]


def flops_in_words(flops: float) -> str:
    """`58.7 GFLOP an image`, of less than 1 GFLOP `14 MFLOP an image`, `0.3 MFLOP an image`."""
    if flops >= 1e9:
        return f"{flops / 1e9:.1f} GFLOP an image"
    return f"{flops / 1e6:.{0 if flops >= 1e7 else 1}f} MFLOP an image"


def recipe_price(config: Config) -> str:
    """A recipe's FLOPs, and the time that ImageNet-1k takes if the datasheet's rate is used to MFU of it."""
    # how many steps the run has is known with the data; the shares are the same of any
    flops = mean_flops(config, 1000)
    text = flops_in_words(flops)
    if config.data.size < SMALLEST_PRICED:
        # not meant for ImageNet
        return text
    work = flops * IMAGENET * config.optim.epochs
    times = [
        f"{work / (count * MFU * BF16_FLOPS[name]) / 3600:,.0f} hours on {words}"
        for name, count, words in (("NVIDIA A100", 8, "8x A100"), ("NVIDIA H200", 1, "1x H200"))
    ]
    return f"{text}; ImageNet-1k at {MFU:.0%} of the datasheet's rate: {', '.join(times)}"


def checkpoint_bytes(config: Config) -> int:
    """Disk that one checkpoint fills: weights and moments in float32; small files left out."""
    count = count_parameters(config)
    return 4 * (count.trained + count.fixed + count.kept)


def step_memory(config: Config, plan: Plan, *, bfloat16: bool) -> MemoryParts:
    """Predicted memory of a rank's step, as the run cuts it."""
    return predicted_bytes(
        config,
        plan.micro_batch,
        bfloat16=bfloat16,
        recompute=config.step.recompute,
        shards=plan.world if config.step.shard else 1,
        micro_steps=plan.micro_steps,
    )


def about_device(config: Config, plan: Plan, world: World) -> list[str]:
    """What a run's step will take of its device, and what its MFU is a share of, one line each."""
    bfloat16 = uses_bfloat16(config.step, world.device)
    memory = step_memory(config, plan, bfloat16=bfloat16).in_words()
    room = device_bytes(world.device)
    return [
        f"memory of a rank's step, predicted {NOT_COUNTED}: {memory}; there are {room / GIB:.1f} GiB",
        about_peak(world.device, bfloat16=bfloat16),
    ]
