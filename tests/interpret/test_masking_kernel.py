"""The Philox and masking kernels: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU.

Which test fails for which mistake (each was made once, on purpose):
purpose or id packed into the wrong counter word: test_random123_known_answer, test_words_equal_the_reference;
descending ranks, the last tile or chunk left out, the words of a block in another order, kept and masked
swapped, padding units ranked: test_kernel_equals_reference (the last three also write outside the outputs,
which may end the process).
"""

# Triton's arguments have no Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import os

import pytest
import torch
import triton
import triton.language as tl

from turbomim.kernels.masking import _launch_random_masking, random_masking, random_masking_ref
from turbomim.kernels.philox import draw_u32_ref, philox_words

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRET else "cuda"
NO_GPU = not INTERPRET and not torch.cuda.is_available()

pytestmark = (
    pytest.mark.interpret
    if INTERPRET
    else [pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="needs a CUDA device")]
)

EPOCHS = [0, 1, 2**32 - 1]
IDS = [0, 2**32 - 1, 2**48 - 1]


@triton.jit
def _store_words(out_ptr, epochs_ptr, ids_ptr, seed, first, PURPOSE: tl.constexpr, BLOCKS: tl.constexpr):
    """Store the words of BLOCKS Philox blocks of one sample, from block `first` on."""
    b = tl.program_id(0)
    block = tl.arange(0, BLOCKS)
    words = philox_words(seed, tl.load(epochs_ptr + b), tl.load(ids_ptr + b), PURPOSE, first + block)
    for lane in tl.static_range(4):
        tl.store(out_ptr + b * BLOCKS * 4 + block * 4 + lane, words[lane].to(tl.int64))


def words_of(
    seed: int, epochs: list[int], ids: list[int], first: int, purpose: int, blocks: int
) -> torch.Tensor:
    out = torch.full((len(ids), blocks * 4), -1, dtype=torch.int64, device=DEVICE)
    tensors = (torch.tensor(epochs, device=DEVICE), torch.tensor(ids, device=DEVICE))
    _store_words[(len(ids),)](out, *tensors, seed, first, PURPOSE=purpose, BLOCKS=blocks)
    return out.cpu()


def test_random123_known_answer() -> None:
    # The vector of pi's digits, with the counter written as a sample.
    seed, epoch, sample = 0x299F31D0_A4093822, 0x03707344, 0x8A2E_85A308D3
    got = words_of(seed, [epoch], [sample], 0x243F6A88, 0x1319, 1)
    assert got.tolist() == [[0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]]


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32 + 5, 2**63 - 1])
@pytest.mark.parametrize("purpose", [0, 3])
def test_words_equal_the_reference(seed: int, purpose: int) -> None:
    want = draw_u32_ref(seed, torch.tensor(EPOCHS), torch.tensor(IDS), purpose, 64)
    assert torch.equal(words_of(seed, EPOCHS, IDS, 0, purpose, 16), want)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize(
    ("units", "keep"), [(196, 49), (36, 9), (49, 12), (64, 63), (129, 1), (2, 1), (784, 196), (256, 64)]
)
def test_kernel_equals_reference(units: int, keep: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.full
    monkeypatch.setattr(
        torch, "empty", lambda shape, *, dtype, device: empty(shape, -1, dtype=dtype, device=device)
    )
    epochs, ids = torch.tensor(EPOCHS), torch.tensor(IDS)
    got = _launch_random_masking(seed, epochs.to(DEVICE), ids.to(DEVICE), units, keep)
    want = random_masking_ref(seed, epochs, ids, units, keep)
    assert torch.equal(got[0].cpu(), want[0])
    assert torch.equal(got[1].cpu(), want[1])


def test_empty_batch() -> None:
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    ids_keep, ids_mask = _launch_random_masking(0, none, none, 36, 9)
    assert (ids_keep.shape, ids_mask.shape) == ((0, 9), (0, 27))


if not INTERPRET:

    def test_compiled_op_on_a_gpu() -> None:
        epochs, ids = torch.tensor(EPOCHS, device=DEVICE), torch.tensor(IDS, device=DEVICE)
        got = torch.compile(random_masking, fullgraph=True)(2**40, epochs, ids, 196, 49)
        want = random_masking_ref(2**40, epochs, ids, 196, 49)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])
