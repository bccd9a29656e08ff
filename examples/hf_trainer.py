"""Hugging Face's Trainer on a turbomim loader; the position in the data lies beside each of its checkpoints.

    python examples/hf_trainer.py shards/train 1000 100

trains 1000 steps with a checkpoint every 100.  Killed, the same command goes on with the same samples.
On several GPUs (torchrun, accelerate launch) each rank takes its own samples: the Trainer splits nothing, as
`get_train_dataloader` gives it the loader as it is.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import turbomim

if len(sys.argv) != 4:
    sys.exit("usage: python hf_trainer.py SHARDS STEPS SAVE_EVERY")
SHARDS, STEPS, SAVE_EVERY = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
FOLDER, BATCH = "hf", 8

loader = turbomim.Loader(SHARDS, size=64, batch=BATCH)


class LoaderTrainer(Trainer):
    """A Trainer whose batches are the loader's."""

    def get_train_dataloader(self) -> Any:
        """Return what is iterated once an epoch."""
        return loader.dataset()

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch."""
        pixels_BCHW = inputs["images_BHWC"].permute(0, 3, 1, 2).float() / 127.5 - 1
        loss: Tensor = model(pixel_values=pixels_BCHW, labels=inputs["labels_B"]).loss
        print(
            f"step {self.state.global_step + 1}: loss {loss.item():.6f}, samples {inputs['ids_B'].tolist()}",
            flush=True,
        )
        return loss


class KeepPosition(TrainerCallback):
    """Save the loader's position beside a checkpoint, and take it up again."""

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **others: Any) -> None:
        """Write it into the folder of the checkpoint."""
        file = Path(args.output_dir, f"checkpoint-{state.global_step}", "loader.json")
        file.write_text(json.dumps(loader.state_dict()), encoding="utf-8")

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **others: Any) -> None:
        """Read it from the checkpoint that the Trainer goes on from."""
        file = Path(args.output_dir, f"checkpoint-{state.global_step}", "loader.json")
        if state.global_step:
            loader.load_state_dict(json.loads(file.read_text(encoding="utf-8")))


settings = TrainingArguments(
    FOLDER,
    max_steps=STEPS,
    save_steps=SAVE_EVERY,
    per_device_train_batch_size=BATCH,
    # the loader goes on by itself: nothing is read to be passed over
    ignore_data_skip=True,
    report_to="none",
    disable_tqdm=True,
    seed=0,
)
torch.manual_seed(0)
small = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=len(loader.classes))
trainer = LoaderTrainer(ResNetForImageClassification(small), settings, callbacks=[KeepPosition()])
# a checkpoint without the loader's position was cut short by a kill
whole = [file.parent for file in Path(FOLDER).glob("checkpoint-*/loader.json")]
steps = max((int(folder.name.partition("-")[2]) for folder in whole), default=0)
# the Trainer takes a step before it looks whether it has taken all
if steps < STEPS:
    trainer.train(resume_from_checkpoint=f"{FOLDER}/checkpoint-{steps}" if steps else None)
