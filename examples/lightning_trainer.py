"""Lightning's Trainer on a turbomim loader; its checkpoints hold the position in the data.

    python examples/lightning_trainer.py shards/train 1000 100

trains 1000 steps with a checkpoint every 100.  Killed, the same command goes on with the same samples.
On several GPUs (strategy="ddp") each rank takes its own samples: let the Trainer add no sampler.
"""

import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import turbomim

if len(sys.argv) != 4:
    sys.exit("usage: python lightning_trainer.py SHARDS STEPS SAVE_EVERY")
SHARDS, STEPS, SAVE_EVERY = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SIZE, BATCH = 64, 8
FOLDER = Path("lightning")


class Classifier(lightning.LightningModule):
    """A small network on the labels of a split."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 8, stride=8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, classes),
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        logits = self.net(batch["images_BHWC"].permute(0, 3, 1, 2).float() / 255)
        loss = nn.functional.cross_entropy(logits, batch["labels_B"])
        print(
            f"step {self.global_step + 1}: loss {loss.item():.6f}, samples {batch['ids_B'].tolist()}",
            flush=True,
        )
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


lightning.seed_everything(0)
# Lightning moves batches to its device; device="cuda" decodes photographs there
loader = turbomim.Loader(SHARDS, size=SIZE, batch=BATCH)
model = Classifier(len(loader.classes))
trainer = lightning.Trainer(
    max_steps=STEPS,
    accelerator="auto",
    devices=1,
    use_distributed_sampler=False,
    callbacks=[ModelCheckpoint(FOLDER, "{step}", every_n_train_steps=SAVE_EVERY, save_last=True)],
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
last = FOLDER / "last.ckpt"
# the dataset itself, as a plain DataLoader around it would keep no state
trainer.fit(model, loader.dataset(), ckpt_path=last if last.exists() else None)
