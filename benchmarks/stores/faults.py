"""What can go wrong between a client and a store; and when, by a plan: a pure function of the request."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Kinds of faults.  Those of the body befall a GET that succeeds with 2 bytes or more, nothing else."""

    # the server is not asked
    ERROR = "500"
    SLOW_DOWN = "503 SlowDown"
    EXPIRED = "403 ExpiredToken"
    RESET = "reset"
    STALL = "stall"
    # the server did what was asked, and the client never hears of it
    LOST = "answer lost"
    # another version of the object than the server's
    ETAG = "changed ETag"
    # half of the body, and then:
    RESET_BODY = "reset in the body"
    STALL_BODY = "stall in the body"
    TRUNCATED = "end of the connection"
    SHORT = "half a body of its own length"
    # a byte more than asked for, and its length says so
    LONG = "body too long"
    # the length says a byte less than what comes
    WRONG_LENGTH = "wrong length"


BEFORE = frozenset({Fault.ERROR, Fault.SLOW_DOWN, Fault.EXPIRED, Fault.RESET, Fault.STALL})
OF_BODY = frozenset(
    {Fault.RESET_BODY, Fault.STALL_BODY, Fault.TRUNCATED, Fault.SHORT, Fault.LONG, Fault.WRONG_LENGTH}
)


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    # of all requests to this proxy, from 0
    number: int
    # requests before it that asked for the same: 0 if it is no repetition
    attempt: int
    method: str
    # without the query, quoted as it was sent
    path: str
    query: str
    # as it was sent: "bytes=0-99"; "" for the whole
    range: str
    # bytes that came with it
    bytes: int


Plan = Callable[[Request], Fault | None]


def none(request: Request) -> Fault | None:
    """Nothing goes wrong."""
    return None


def seeded(seed: int, rates: Mapping[Fault, float]) -> Plan:
    """A plan in which a share of all requests gets each fault, whatever they ask for."""
    assert sum(rates.values()) <= 1, rates

    def plan(request: Request) -> Fault | None:
        drawn = random.Random(f"{seed} {request.number}").random()
        for fault, rate in rates.items():
            if (drawn := drawn - rate) < 0:
                return fault
        return None

    return plan


def first(attempts: int, fault: Fault, method: str = "GET", below: str = "") -> Plan:
    """A plan in which the first attempts at everything of a method fail, in paths that contain `below`."""

    def plan(request: Request) -> Fault | None:
        fits = request.method == method and below in request.path
        return fault if fits and request.attempt < attempts else None

    return plan
