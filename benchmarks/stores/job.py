"""What a reader of the comparison is asked for, and what the server counted meanwhile."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any, Final

import psutil

# of the server's metrics
REQUESTS: Final = re.compile(r"^SeaweedFS_s3_request_total\{.*\} (\S+)$", re.MULTILINE)
SENT: Final = re.compile(r"^SeaweedFS_s3_bucket_traffic_sent_bytes_total\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadJob:
    """Two epochs of a set of photographs, as batches of crops.

    where: its folder or URL; samples: of an epoch, a multiple of the batch; side: of the crops, pixels;
    cache: folder for what a reader keeps, its own; kept: shards that ours keeps there, the first ones;
    window: shards that are shuffled at a time, 0 for all; metrics and server: URL of the server's counts and
    its process, "" and 0 without one.
    """

    where: str
    samples: int
    cores: int
    batch: int
    side: int
    cache: str = ""
    kept: int = 0
    window: int = 0
    metrics: str = ""
    server: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields, for another process."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What a server did since its start: requests, bytes of objects that it sent, CPU seconds."""

    requests: int = 0
    sent_bytes: int = 0
    cpu_s: float = 0.0

    @classmethod
    def now(cls, job: ReadJob) -> Served:
        """As it says itself."""
        if not job.server:
            return cls()
        with urllib.request.urlopen(job.metrics, timeout=10) as answer:
            requests, sent_bytes = counts(answer.read().decode())
        times = psutil.Process(job.server).cpu_times()
        return cls(
            requests=requests,
            sent_bytes=sent_bytes,
            cpu_s=times.user + times.system,
        )

    def since(self, before: Served) -> Served:
        """What was done between two looks."""
        return Served(
            requests=self.requests - before.requests,
            sent_bytes=self.sent_bytes - before.sent_bytes,
            cpu_s=self.cpu_s - before.cpu_s,
        )


def counts(metrics: str) -> tuple[int, int]:
    """Requests, and bytes of objects that were sent, of a server's metrics as Prometheus reads them."""
    requests, sent = (sum(int(float(count)) for count in of.findall(metrics)) for of in (REQUESTS, SENT))
    return requests, sent
