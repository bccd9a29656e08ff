"""Supervised training of a timm model on the labels of a split, tested after every epoch on another split.

    python examples/supervised_timm.py shards/train shards/val resnet18 90

The splits need labels: `turbomim.shard` of a folder with a folder of images a class writes them.
"""

import sys

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor

import turbomim

if len(sys.argv) != 5:
    sys.exit("usage: python supervised_timm.py TRAIN TEST MODEL EPOCHS")
TRAIN, TEST, NAME, EPOCHS = *sys.argv[1:4], int(sys.argv[4])
SIZE, BATCH = 64, 16

device = "cuda" if torch.cuda.is_available() else "cpu"
loader = turbomim.Loader(TRAIN, size=SIZE, batch=BATCH, device=device, crop="rrc", rrc_scale=0.08)
if not loader.classes:
    sys.exit(f"{TRAIN} has no labels: see turbomim.shard")
model = timm.create_model(NAME, num_classes=len(loader.classes)).to(device)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = CosineLRScheduler(optimizer, EPOCHS * len(loader), warmup_t=len(loader), t_in_epochs=False)
criterion = LabelSmoothingCrossEntropy(0.1)
mean, std = (
    torch.tensor(numbers, device=device).view(3, 1, 1)
    for numbers in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
)


def logits_of(images_BHWC: Tensor) -> Tensor:
    """Scores (B, classes) of uint8 images as the loader gives them."""
    return model((images_BHWC.permute(0, 3, 1, 2).float() / 255 - mean) / std)


step = 0
for epoch in range(EPOCHS):
    model.train()
    for batch in loader:
        loss = criterion(logits_of(batch.images_BHWC), batch.labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        schedule.step_update(step)
    model.eval()
    right = seen = 0
    for batch in turbomim.centre_crops(TEST, size=SIZE, batch=BATCH, device=device):
        with torch.inference_mode():
            right += int((logits_of(batch.images_BHWC).argmax(1) == batch.labels_B).sum())
        seen += len(batch.labels_B)
    print(f"epoch {epoch + 1}: loss {loss.item():.4f}, {right} of {seen} right", flush=True)
