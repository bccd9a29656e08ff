"""Stand-ins: a sample that cannot be decoded is replaced by the next one in storage order that can.

Which sample stands in for which follows from the split's bytes and the decoder alone, so the stream is the
same on any ranks, threads and prefetch.  Only pixels and label are the stand-in's: the batch keeps its ids,
and with them its crops, flips and masks.  Each bad sample is named once; too many of them end the run.
Shape suffixes: B samples, N bytes.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.decode import admit
from turbomim.pipeline.loader_settings import BadSampleLimits
from turbomim.pipeline.reading.shard_files import Samples, ShardFiles, read_samples
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Kind

# the share of replaced samples says nothing before
MIN_SAMPLES = 200

# place and reason of each image that does not decode, of some images that passed `admit`
FindUndecodable = Callable[[list[NDArray[np.uint8]]], dict[int, str]]


class Repair:
    """Replaces the samples of one rank's batches, and counts them.

    samples, replaced: handed out so far, and how many of these were stand-ins, whose share counts from 200
    samples on, but at once where none is allowed.  known: reasons of samples that must not be decoded;
    trying: called with a sample before it is decoded to find a stand-in.
    """

    def __init__(
        self,
        split: Split,
        *,
        store: Kind,
        find_undecodable: FindUndecodable,
        limits: BadSampleLimits,
        notify: Callable[[str], None],
        known: Mapping[int, str],
        trying: Callable[[int], None],
    ) -> None:
        self._split = split
        self._store = store
        self._find_undecodable = find_undecodable
        self._limits = limits
        self._notify = notify
        self._files = ShardFiles(split)
        self._known = known
        self._trying = trying
        # of each bad sample known
        self._stand_ins: dict[int, int] = {}
        self._reasons: dict[int, str] = {}
        self._row = 0
        self.samples = 0
        self.replaced = 0

    def replace(self, turn: Turn, samples: Samples) -> Samples:
        """Return the samples as the graph takes them: stand-ins for those known, or seen, to be bad."""
        images, labels_B = list(samples.images), samples.labels_B.copy()
        for place, sample in enumerate(turn.ids_B.tolist()):
            if sample not in self._stand_ins:
                try:
                    images[place] = self._admit(sample, images[place])
                    continue
                except ValueError as error:
                    self._find_stand_in(sample, str(error))
            other = self._read(self._stand_ins[sample])
            images[place], labels_B[place] = admit(other.images[0], self._store), other.labels_B[0]
        return Samples(images=images, labels_B=labels_B)

    def decoded_for(self, ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples that are decoded for these."""
        return np.array([self._stand_ins.get(sample, sample) for sample in ids_B.tolist()], np.int64)

    def remember_bad(self, turn: Turn, reasons: dict[int, str]) -> bool:
        """Remember which samples of a batch do not decode, by place; whether `replace` knows more now."""
        known = len(self._stand_ins)
        for place, reason in reasons.items():
            sample = int(turn.ids_B[place])
            if sample not in self._stand_ins:
                self._find_stand_in(sample, reason)
        return len(self._stand_ins) > known

    def count(self, turn: Turn) -> None:
        """Count a batch that is handed out.  Raises UserError: too many samples were replaced by now."""
        for sample in turn.ids_B.tolist():
            self.samples += 1
            if sample not in self._stand_ins:
                self._row = 0
                continue
            self.replaced += 1
            self._row += 1
            if self._row >= self._limits.max_row:
                raise self._too_many(f"{self._row:,} samples in a row, {self._row_limit}")
            many = self.samples >= MIN_SAMPLES or not self._limits.max_share
            if many and self.replaced > self._limits.max_share * self.samples:
                share = self.replaced / self.samples
                limit = f"the limit is max_bad_share {self._limits.max_share:.1%}"
                raise self._too_many(f"{self.replaced:,} of {self.samples:,} samples ({share:.1%}), {limit},")

    def close(self) -> None:
        """Close the shards."""
        self._files.close()

    def _read(self, sample: int) -> Samples:
        return read_samples(self._split, self._files, np.array([sample], np.int64))

    def _find_stand_in(self, sample: int, reason: str) -> None:
        """Remember a bad sample's stand-in, and that of each bad one between the two."""
        total = self._split.manifest.samples
        bad, candidate = [sample], sample
        self._reasons[sample] = reason
        while True:
            if len(bad) == total:
                raise self._too_many(f"all {total:,} samples of the split")
            if len(bad) >= self._limits.max_row:
                raise self._too_many(f"{len(bad):,} samples in a row of the storage, {self._row_limit}")
            candidate = (candidate + 1) % total
            if candidate in self._stand_ins:
                candidate = self._stand_ins[candidate]
                break
            fault = self._fault(candidate)
            if fault is None:
                break
            bad.append(candidate)
            self._reasons[candidate] = fault
        for sample in bad:
            self._stand_ins[sample] = candidate
            name, other = self._split.locate(sample), self._split.locate(candidate)
            self._notify(f"{name} cannot be decoded ({self._reasons[sample]}): replaced by {other}")

    def _fault(self, sample: int) -> str | None:
        """Say why a sample cannot be decoded, None if it can."""
        try:
            image = self._admit(sample, self._read(sample).images[0])
        except ValueError as error:
            return str(error)
        self._trying(sample)
        return self._find_undecodable([image]).get(0)

    def _admit(self, sample: int, image_N: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if sample in self._known:
            raise ValueError(self._known[sample])
        return admit(image_N, self._store)

    @property
    def _row_limit(self) -> str:
        return f"the limit is max_bad_row {self._limits.max_row},"

    def _too_many(self, what: str) -> UserError:
        first, reason = next(iter(self._reasons.items()))
        where = f"first {self._split.locate(first)} ({reason}), in {str(self._split.place)!r}"
        return UserError(
            f"{what} cannot be decoded, {where}: mend the photographs and remake the split with "
            "`turbomim shard make`, or raise the limit"
        )
