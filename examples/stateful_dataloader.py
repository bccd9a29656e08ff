"""torchdata's StatefulDataLoader over a turbomim loader: its state_dict holds the position in the data.

    python examples/stateful_dataloader.py shards/train 1000 100

goes over 1000 batches and saves stateful_dataloader.pt every 100.  Killed, the same command goes on with the
same samples.
"""

import os
import sys
from pathlib import Path

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

import turbomim

if len(sys.argv) != 4:
    sys.exit("usage: python stateful_dataloader.py SHARDS STEPS SAVE_EVERY")
SHARDS, STEPS, SAVE_EVERY = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
STATE = Path("stateful_dataloader.pt")

loader = turbomim.Loader(SHARDS, size=64, batch=8)
# batches are made already, by threads of this process: batch_size=None, num_workers=0
data = StatefulDataLoader(loader.dataset(), batch_size=None, num_workers=0)
step = 0
if STATE.exists():
    state = torch.load(STATE)
    data.load_state_dict(state["data"])
    step = state["steps"]

while step < STEPS:
    for batch in data:
        step += 1
        if step % SAVE_EVERY == 0:
            torch.save({"data": data.state_dict(), "steps": step}, "saving.pt")
            os.replace("saving.pt", STATE)
        print(f"step {step}: samples {batch['ids_B'].tolist()}", flush=True)
        if step == STEPS:
            break
