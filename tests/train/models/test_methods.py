"""Every method's FLOPs against the products of a forward, counted one by one, on tensors without numbers.

The formulas count what the published form of a method computes.  So they are compared with that form where
the benchmarks have it, and with ours plus what ours leaves out, which is written down here.

Which test fails for which mistake (each was made once, on purpose):
attention counted once, the fusion's projections of the class token forgotten, windows as wide as the image,
stage 2's cells counted as stage 1's, depthwise convolutions counted once for four masks:
test_flops_are_the_products_of_our_forward_and_those_it_leaves_out;
the head's products of masked patches alone: test_flops_are_the_products_of_the_textbook_form.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families import smaller
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from turbomim.benchmarks.step.textbook_convmae import TextbookConvMAE
from turbomim.benchmarks.step.textbook_mae import TextbookMAE
from turbomim.train.models.convmae import ConvMAE, conv_stages
from turbomim.train.models.methods import METHODS, flops_per_image, make_model
from turbomim.train.settings.config import Config

# a recipe of each method, its complementary masks too
RECIPES = (
    "mae-vit-b16-800e",
    "mff-vit-b16-300e",
    "convmae-b-1600e",
    "fastconvmae-b-50e",
    "simmim-vit-b16-800e",
    "simmim-swin-b-100e",
    "simmim-swinv2-b-800e",
)
# (left, right) of the arguments that a product of matrices (…, I, J) and (…, J, K) multiplies
FACTORS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
# products of other shapes, which nothing here makes
OTHERS = {"mv", "addmv", "dot", "vdot", "addr", "addbmm", "ger", "_trilinear"}


class Products(TorchDispatchMode):
    """Counts the operations of all matrix products and convolutions, multiply-add = 2; a context manager."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func.name()).split("::")[1].split(".")[0]
        assert name not in OTHERS, name
        if name in FACTORS:
            left, right = (args[number] for number in FACTORS[name])
            self.flops += 2 * left.numel() * right.shape[-1]
        elif name == "convolution":
            # of each value of the output, the kernel's places in the channels of its group
            self.flops += 2 * out.numel() * args[1][0].numel()
        elif name.startswith("_scaled_dot_product"):
            query, key, value = args[:3]
            self.flops += 2 * query.shape[:-1].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1])
        elif name == "product":
            # ours: x (…, I) times weight (O, I)
            self.flops += 2 * args[0].numel() * args[1].shape[0]
        return out


def products_of(model: nn.Module, *inputs: Tensor) -> int:
    """FLOPs of a forward, on tensors that have shapes and no numbers."""
    # torch has no annotation of it
    placed: Any = model.to("meta")
    counted = Products()
    with counted, torch.no_grad():
        placed(*(tensor.to("meta") for tensor in inputs))
    return counted.flops


def left_out(config: Config) -> int:
    """FLOPs of the published form's forward of one image that ours does without."""
    model = config.model
    values, removed, narrow = 3 * model.patch**2, config.patches - config.keep, model.decoder_width
    embedded = 2 * removed * values * model.width
    if model.method.startswith("simmim"):
        return embedded
    net = make_model(config)
    # the last decoder block's MLP, and the head, of what is not masked
    seen = config.keep + net.prefix
    decoder = 2 * 8 * seen * narrow**2 + 2 * config.keep * narrow * values
    if not isinstance(net, ConvMAE):
        return embedded + decoder
    views = 4 if model.complementary else 1
    (width1, depth1), (width2, depth2) = conv_stages(model)
    linear1 = 2 * 48 * width1 + depth1 * 20 * width1**2
    linear2 = 8 * width1 * width2 + depth2 * 20 * width2**2
    linear3 = 2 * model.width * (4 * width2 + model.width + 16 * width1 + 4 * width2)
    # four masks keep every patch once
    unseen = config.patches - views * config.keep
    return unseen * (16 * linear1 + 4 * linear2 + linear3) + views * decoder


def image_of(config: Config, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    size, numbers = config.data.size, torch.arange(batch)
    return torch.zeros(batch, size, size, 3, dtype=torch.uint8), numbers, numbers


@pytest.mark.parametrize("name", RECIPES)
def test_flops_are_the_products_of_our_forward_and_those_it_leaves_out(name: str) -> None:
    config = smaller(name)
    net = make_model(config)
    positions = 0
    if config.model.method == "simmim-swinv2":
        # the small network that makes biases of distances, the same for any number of images
        positions = products_of(net, *image_of(config, 2)) - 2 * (
            products_of(net, *image_of(config, 3)) - products_of(net, *image_of(config, 2))
        )
        assert positions > 0
    ours = products_of(net, *image_of(config, 2)) - positions
    assert flops_per_image(config) == 3 * (ours / 2 + left_out(config))


def test_every_method_is_counted() -> None:
    assert {smaller(name).model.method for name in RECIPES} == set(METHODS)


@pytest.mark.parametrize("name", ["mae-vit-b16-800e", "convmae-b-1600e", "fastconvmae-b-50e"])
def test_flops_are_the_products_of_the_textbook_form(name: str) -> None:
    config = smaller(name)
    book = TextbookMAE(config) if config.model.method == "mae" else TextbookConvMAE(config)
    size = config.data.size
    flops = products_of(book, torch.zeros(5, 3, size, size), torch.zeros(5, config.patches))
    # the textbook predicts the class token's pixels too, and drops them
    dropped = 2 * config.model.decoder_width * 3 * config.model.patch**2 * make_model(config).prefix
    assert flops_per_image(config) == 3 * (flops / 5 - dropped)
