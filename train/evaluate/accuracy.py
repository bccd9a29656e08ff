"""Top-1 and top-5 accuracy of the scores that a head gives to classes."""

from torch import Tensor


def count_hits(logits_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """How many samples have their class first, and how many among the first five; () int64 each."""
    best_B5 = logits_BK.topk(min(5, logits_BK.shape[1])).indices
    hits_B5 = best_B5 == labels_B[:, None]
    return hits_B5[:, 0].sum(), hits_B5.sum()


def top_shares(first: float, five: float, samples: int, classes: int) -> dict[str, float]:
    """Shares of samples by name, top1 and top5, of counts as `count_hits` gives them.

    Of five classes or fewer every one is among the first five, and there is no top5.
    """
    top1 = {"top1": first / samples}
    return {**top1, "top5": five / samples} if classes > 5 else top1
