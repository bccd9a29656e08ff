"""Supervised training of a timm model on the labels of a split: random resized crops, an epoch a `for`.

    python examples/supervised_timm.py shards/train resnet18 90

The split needs labels: `turbomim.shard` of a folder with a folder of images a class writes them.
"""

import sys

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

import turbomim

SHARDS, NAME, EPOCHS = sys.argv[1], sys.argv[2], int(sys.argv[3])
SIZE, BATCH = 64, 16

device = "cuda" if torch.cuda.is_available() else "cpu"
loader = turbomim.Loader(SHARDS, size=SIZE, batch=BATCH, device=device, crop="rrc", rrc_scale=0.08)
model = timm.create_model(NAME, num_classes=len(loader.classes)).to(device)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = CosineLRScheduler(optimizer, EPOCHS * len(loader), warmup_t=len(loader), t_in_epochs=False)
criterion = LabelSmoothingCrossEntropy(0.1)
mean, std = (
    torch.tensor(numbers, device=device).view(3, 1, 1)
    for numbers in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
)

step = 0
for epoch in range(EPOCHS):
    right, seen = 0, 0
    for batch in loader:
        # uint8 (B, H, W, C) on the device, to float (B, C, H, W) as timm's models take it
        images_BCHW = (batch.images_BHWC.permute(0, 3, 1, 2).float() / 255 - mean) / std
        logits = model(images_BCHW)
        loss = criterion(logits, batch.labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        schedule.step_update(step)
        right += int((logits.argmax(1) == batch.labels_B).sum())
        seen += len(batch.labels_B)
    print(f"epoch {epoch + 1}: {seen} samples, {100 * right / seen:.1f} % right in training", flush=True)
