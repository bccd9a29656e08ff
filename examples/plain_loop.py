"""Masked pre-training in a loop of your own: turbomim gives batches, masks and low-passed targets.

    python examples/plain_loop.py shards/train 1000 100

trains 1000 steps and saves plain_loop.pt every 100.  Killed, the same command goes on with the same samples.
"""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import turbomim

if len(sys.argv) != 4:
    sys.exit("usage: python plain_loop.py SHARDS STEPS SAVE_EVERY")
SHARDS, STEPS, SAVE_EVERY = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SIZE, PATCH, BATCH, WIDTH = 64, 8, 8, 64
PATCHES, VALUES = (SIZE // PATCH) ** 2, PATCH * PATCH * 3
STATE = Path("plain_loop.pt")


class TinyMae(nn.Module):
    """Visible patches through an encoder; the removed ones are asked for by their places in a decoder."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.encoder, self.decoder = (
            nn.TransformerEncoder(layer, n, enable_nested_tensor=False) for n in (2, 1)
        )
        self.embed, self.head = nn.Linear(VALUES, WIDTH), nn.Linear(WIDTH, VALUES)
        self.places = nn.Parameter(0.02 * torch.randn(PATCHES, WIDTH))

    def forward(self, visible_BKP: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor) -> Tensor:
        """Predict the removed patches, (B, M, P)."""
        tokens_BKD = self.encoder(self.embed(visible_BKP) + self.places[ids_keep_BK])
        tokens_BND = self.decoder(torch.cat([tokens_BKD, self.places[ids_mask_BM]], dim=1))
        return self.head(tokens_BND[:, ids_keep_BK.shape[1] :])


device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
model = TinyMae().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
# endless: every batch is full, also where an epoch ends
loader = turbomim.Loader(SHARDS, size=SIZE, batch=BATCH, device=device, endless=True)
step = 0
if STATE.exists():
    state = torch.load(STATE)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    loader.load_state_dict(state["loader"])
    step = state["steps"]

batches = iter(loader)
while step < STEPS:
    batch = next(batches)
    # ids of patches to keep and to remove: they follow from epoch and id of each sample
    masks = turbomim.random_masking(batch.epochs_B, batch.ids_B, patches=PATCHES, ratio=0.75)
    visible, target = turbomim.masked_patches(
        batch.images_BHWC, *masks, patch=PATCH, target="gaussian", radius=12
    )
    loss = nn.functional.mse_loss(model(visible, *masks), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step += 1
    if step % SAVE_EVERY == 0:
        parts = {"model": model, "optimizer": optimizer, "loader": loader}
        saved = {name: part.state_dict() for name, part in parts.items()} | {"steps": step}
        torch.save(saved, "saving.pt")
        os.replace("saving.pt", STATE)
    print(f"step {step}: loss {loss.item():.6f}, samples {batch.ids_B.tolist()}", flush=True)
