"""A loader as what other training loops take: a torch dataset of dictionaries, with a state."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.system.errors import UsageError

KEYS = tuple(field.name for field in fields(Batch) if field.name != "position")


class Source(Protocol):
    """What a `turbomim.Loader` is to others."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on there."""


class WholeBatch(dict[str, Tensor]):
    """A batch as a dictionary, of a type of its own: torch must not collate it."""


def refuse_to_collate(batch: list[WholeBatch], *, collate_fn_map: object = None) -> None:
    """Raise UsageError: a DataLoader would stack whole batches to one with an axis too many."""
    raise UsageError(
        "batch_size must be None in a DataLoader around a turbomim loader: its batches are whole already, of "
        "as many samples as its `batch` says"
    )


class BatchDataset(IterableDataset[dict[str, Tensor]]):
    """Whole batches of a `turbomim.Loader`, each a dictionary: images_BHWC, labels_B, ids_B, epochs_B.

    Give it to a DataLoader with batch_size=None and num_workers=0: batches are made already, by threads.
    `len`, `state_dict` and `load_state_dict` are the loader's, so torchdata's StatefulDataLoader keeps them.
    """

    def __init__(self, loader: Source) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Go on as the loader does.

        Raises UsageError in a worker process, as each would give every batch; and in a DataLoader with a
        batch_size, which collates what it takes.
        """
        if get_worker_info() is not None:
            raise UsageError("num_workers must be 0: a turbomim loader has its own threads, see `threads`")
        # torch's table for types of others, which `default_collate` documents
        default_collate_fn_map[WholeBatch] = refuse_to_collate
        for batch in self._loader:
            yield WholeBatch({key: getattr(batch, key) for key in KEYS})

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """The loader's."""
        return self._loader.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The loader's."""
        self._loader.load_state_dict(state_dict)
