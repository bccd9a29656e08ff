"""The training steps that are compared: the same weights, batch, masks and optimizer in every form.

A form is made from a task in the process that runs it, and is then a function without arguments: one step of
the optimizer on the batch, giving its loss.  Shape suffixes: B batch, N patches, K kept, M masked.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from turbomim.benchmarks.step.textbook_mae import TextbookMAE, noise_of, normalised, textbook_adamw
from turbomim.kernels.masking import random_masking
from turbomim.pipeline.batch import Batch
from turbomim.train.export.hf import vit_mae_config
from turbomim.train.foreign.hf import to_vit_mae
from turbomim.train.loop.step import Step, autocast
from turbomim.train.machine.cpu_products import settle_products
from turbomim.train.models.mae import MAE
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import Config
from turbomim.train.world.distributed import World

LR: Final = 1e-4

OneStep = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What every form does: `batch` synthetic images of a configuration on a device, cpu or cuda."""

    config: Config
    batch: int
    device: str

    def make_batch(self) -> Batch:
        """Images of noise, which a model takes as long for as for photographs."""
        size = self.config.data.size
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, size, size, 3)
        images_BHWC = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(self.device)
        ids_B = torch.arange(self.batch, device=self.device)
        zeros_B = torch.zeros_like(ids_B)
        return Batch(images_BHWC=images_BHWC, labels_B=zeros_B, ids_B=ids_B, epochs_B=zeros_B, position=0)


def turbomim(task: Task) -> OneStep:
    """The step of training, masks drawn and patches cut in it."""
    model = MAE(task.config).to(task.device)
    world = World(device=torch.device(task.device))
    # the products that a run takes
    settle_products(task.config, world)
    optimizer = make_optimizer(model, task.config.optim)
    step = Step(model, optimizer, task.config.step, world, micro_steps=1)
    batch = task.make_batch()
    return lambda: step([batch], LR)[0]


def other_mode(mode: str) -> Callable[[Task], OneStep]:
    """The step of training, compiled in another mode of torch.compile."""

    def form(task: Task) -> OneStep:
        # of these, settings take reduce-overhead alone
        step = dataclasses.replace(task.config.step, compile_mode=mode)  # type: ignore[arg-type]
        return turbomim(dataclasses.replace(task, config=dataclasses.replace(task.config, step=step)))

    return form


def in_float32(task: Task) -> OneStep:
    """The step of training in float32, beside others that are not."""
    step = dataclasses.replace(task.config.step, precision="float32")
    return turbomim(dataclasses.replace(task, config=dataclasses.replace(task.config, step=step)))


def pixmim(task: Task) -> OneStep:
    """The step of training with low-passed targets: another loss."""
    model = dataclasses.replace(task.config.model, target="gaussian")
    return turbomim(dataclasses.replace(task, config=dataclasses.replace(task.config, model=model)))


def textbook(task: Task) -> OneStep:
    """The textbook's form, eager."""
    model = TextbookMAE(task.config)
    model.load_state_dict(MAE(task.config).state_dict())
    return plain_step(model, model, task)


def textbook_compiled(task: Task) -> OneStep:
    """The textbook's form through torch.compile."""
    model = TextbookMAE(task.config)
    model.load_state_dict(MAE(task.config).state_dict())
    return plain_step(model, torch.compile(model), task)


def hugging_face(task: Task) -> OneStep:
    """transformers' ViTMAEForPreTraining, with the attention it chooses itself."""
    theirs = vit_mae_of_hugging_face(task)
    return plain_step(theirs, lambda images, noise: theirs(pixel_values=images, noise=noise).loss, task)


def hugging_face_compiled(task: Task) -> OneStep:
    """The same through torch.compile."""
    theirs = vit_mae_of_hugging_face(task)
    compiled: Any = torch.compile(theirs)
    return plain_step(theirs, lambda images, noise: compiled(pixel_values=images, noise=noise).loss, task)


def vit_mae_of_hugging_face(task: Task) -> Any:
    """Their model with our initial weights."""
    transformers = importlib.import_module("transformers")
    kind = transformers.ViTMAEForPreTraining
    about = transformers.ViTMAEConfig.from_dict(vit_mae_config(task.config))
    # the published names, which every version takes by from_pretrained alone
    published = to_vit_mae(MAE(task.config).state_dict())
    loaded = kind.from_pretrained(None, config=about, state_dict=published)
    # in version 5 what it gives would train the fixed positions
    theirs = kind(about)
    theirs.load_state_dict(loaded.state_dict())
    return theirs


def plain_step(model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], task: Task) -> OneStep:
    """A step as people write it, on a batch that is normalised in it and masks that are given."""
    model.to(task.device).train()
    batch = task.make_batch()
    config = task.config
    # those that our step draws
    masks = random_masking(config.run.seed, batch.epochs_B, batch.ids_B, config.patches, config.keep)
    noise_BN = noise_of(*masks)
    optimizer = textbook_adamw(model, config.optim, LR)
    device = torch.device(task.device)

    def step() -> Tensor:
        with autocast(config.step, device):
            loss = loss_fn(normalised(batch.images_BHWC), noise_BN)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return step


IN_FLOAT32: Final = "turbomim in float32"
FORMS: Final[dict[str, Callable[[Task], OneStep]]] = {
    "textbook": textbook,
    "textbook compiled": textbook_compiled,
    "Hugging Face": hugging_face,
    "Hugging Face compiled": hugging_face_compiled,
    "turbomim": turbomim,
    IN_FLOAT32: in_float32,
    "turbomim with PixMIM": pixmim,
    "turbomim with max-autotune": other_mode("max-autotune-no-cudagraphs"),
    "turbomim with CUDA graphs": other_mode("reduce-overhead"),
}
# those that are compared where nothing else is asked for, and those whose loss is another one
USUAL: Final = ("textbook", "textbook compiled", "Hugging Face", "Hugging Face compiled", "turbomim")
OTHER_LOSS: Final = ("turbomim with PixMIM",)
