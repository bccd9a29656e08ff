"""torch.save's files read without unpickling: what torch.load reads of them, and nothing that they name runs.

Planted bugs and the test that fails on each: the stand-in for getattr left out, so that it is called
(`test_an_mmengine_log_is_passed_over`); an offset, a stride or a shared storage forgotten, bytes not
swapped (`test_tensors_are_those_of_torch_load`, `test_bytes_of_a_big_endian_machine_are_swapped`); keys of
any kind, a read of as many bytes as a length claims, a storage grown to what a tensor asks for
(`test_hostile_pickles_take_no_memory_and_run_nothing`).
"""

from __future__ import annotations

import argparse
import io
import pickle
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.foreign.imports import import_file, imported, same, save
from tests.train.foreign.names import DECODER, ENCODER, weights
from torch import Tensor, nn

from turbomim.train.foreign import unpickle
from turbomim.train.foreign.file import read_tensors
from turbomim.train.foreign.torch_save import read_torch
from turbomim.train.foreign.unpickle import StandIn

pytestmark = pytest.mark.usefixtures("here")

WHOLE = weights(ENCODER + DECODER, theirs=True)


def history(monkeypatch: pytest.MonkeyPatch) -> Any:
    """mmengine's HistoryBuffer, whose pickle asks getattr for its methods and numpy for its numbers."""
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def mean(self: Any) -> float:
        raise AssertionError("it ran")

    buffer = type("HistoryBuffer", (), {"__module__": "mmengine.logging.history_buffer", "mean": mean})
    monkeypatch.setattr(
        sys.modules["mmengine.logging.history_buffer"], "HistoryBuffer", buffer, raising=False
    )
    made: Any = buffer()
    made.__dict__.update(_log_history=np.array([1.0, 2.0]), last=np.float64(3.0))
    made._statistics_methods = {"mean": Method(buffer, "mean"), "bound": Bound(buffer)}
    return made


class Method:
    """A class's method as pickle writes it: a call of getattr."""

    def __init__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.owner, self.name)


class Bound:
    """A call of what getattr gives, with attributes, items and pairs to put into it."""

    def __init__(self, owner: type) -> None:
        self.owner = owner

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1/0",), {"state": 1}, iter([1, 2]), iter([("a", 1), ("b", 2)])


@pytest.mark.parametrize("new", [True, False])
def test_an_mmengine_log_is_passed_over(
    new: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        tree = {"meta": {}, "state_dict": OrderedDict(WHOLE), "message_hub": {"loss": history(patch)}}
        torch.save(tree, "epoch.pth", _use_new_zipfile_serialization=new)
    assert import_file(monkeypatch, "epoch.pth", "mmselfsup") == 0
    told = capsys.readouterr().out
    said = "  passed over, nothing of it ran: mmengine.logging.history_buffer.HistoryBuffer, numpy."
    assert said in told and " and " in told.split(said)[1].splitlines()[0]
    assert "__builtin__.getattr" in read_torch(Path("epoch.pth"))[1]
    same(imported(), weights(ENCODER + DECODER))
    assert "mmengine" not in sys.modules


class Own(torch.Tensor):
    """A tensor of a class of its own."""


def kinds() -> dict[str, Tensor]:
    """Every kind of tensor that a state_dict may hold."""
    base = torch.arange(24.0).reshape(4, 6)
    tagged = torch.ones(3)
    tagged.tag = "decayed"  # type: ignore[attr-defined]
    return {
        "base": base,
        "rows": base[1:3],
        "columns": base.t()[::2],
        "scalar": torch.tensor(5),
        "empty": torch.empty(0, 3),
        "expanded": torch.ones(1).expand(4),
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "double": base.double(),
        "flags": base > 7,
        "bytes": base.to(torch.uint8),
        "parameter": nn.Parameter(base[2]),
        "tagged": tagged,
        "tagged parameter": nn.Parameter(tagged),
        "own": base.clone().as_subclass(Own),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False])
def test_tensors_are_those_of_torch_load(new: bool, protocol: int) -> None:
    counts: defaultdict[str, Any] = defaultdict(int, a=1)
    tree: dict[str, Any] = {
        "model": OrderedDict(kinds()),
        "epoch": 3,
        "lr": [0.1, (1, None, True)],
        "n": counts,
    }
    tree["args"] = argparse.Namespace(of={1, 2}, name=b"x" * 300, shape=torch.Size([1, 2]), big=2**80)
    torch.save(tree, "a.pth", _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    found, asked = read_torch(Path("a.pth"))
    expected = torch.load("a.pth", weights_only=False)["model"]
    assert isinstance(found, dict) and list(found["model"]) == list(expected)
    for name, tensor in expected.items():
        other = found["model"][name]
        assert type(other) is Tensor and other.dtype == tensor.dtype and other.stride() == tensor.stride(), (
            name
        )
        assert torch.equal(other, tensor.detach().as_subclass(Tensor)), name
    assert (found["epoch"], found["lr"], found["n"]) == (3, [0.1, (1, None, True)], {"a": 1})
    assert isinstance(found["args"], StandIn) and "argparse.Namespace" in asked
    # as they share it in the file
    assert found["model"]["base"].untyped_storage()._cdata == found["model"]["rows"].untyped_storage()._cdata


def test_bytes_of_a_big_endian_machine_are_swapped() -> None:
    save({"model": {"a": torch.arange(5.0), "b": torch.arange(4, dtype=torch.int64)}})
    with zipfile.ZipFile("file.pth") as old, zipfile.ZipFile("big.pth", "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if "/data/" in entry.filename:
                data = np.frombuffer(data, "<f4" if len(data) == 20 else "<i8").byteswap().tobytes()
            new.writestr(entry.filename, b"big" if entry.filename.endswith("byteorder") else data)
    tensors, notes = read_tensors(Path("big.pth"))
    assert torch.equal(tensors["a"], torch.arange(5.0)) and tensors["b"].tolist() == [0, 1, 2, 3]
    assert not notes


HEAD = b"\x80\x02"
# a storage of 4 numbers, and a call that makes a tensor of it
STORED = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    return HEAD + REBUILD + b"(" + STORED + offset + size + stride + b"\x89}tR."


HOSTILE = {
    "a chain of getattr": pickle.dumps(
        type("E", (), {"__reduce__": lambda _: (eval, ("open('marker', 'w')",))})(), 2
    ),
    "deep lists": HEAD + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a deep tuple as a key": HEAD + b"})" + b"\x85" * 100_000 + b"K\x01s.",
    "a deep tuple in a set": b"\x80\x04" + b"\x8f()" + b"\x85" * 100_000 + b"\x90.",
    "a text of 4 GB": HEAD + b"X\xff\xff\xff\xffabc.",
    "bytes of an exabyte": b"\x80\x04\x8e" + b"\x00" * 7 + b"\x10abc.",
    "a byte array of an exabyte": b"\x80\x05\x96" + b"\x00" * 7 + b"\x10abc.",
    "a number of 2 GB": HEAD + b"\x8b\xff\xff\xff\x7fabc.",
    "a frame of an exabyte": b"\x80\x04\x95" + b"\x00" * 7 + b"\x10N.",
    "a far place in the memo": HEAD + b"Nr\xff\xff\xff\xff.",
    "more opcodes than any": HEAD + b"N0" * 300_000 + b"N.",
    "lists that double": HEAD
    + b"]q\x00"
    + b"".join(b"(h%ch%clq%c" % (n, n, n + 1) for n in range(200))
    + b".",
    "no stack": HEAD + b"R.",
    "no mark": HEAD + b"t.",
    "no memo": HEAD + b"h\x07.",
    "no end": HEAD + b"N",
    "an extension": HEAD + b"\x82\x01.",
    "buffers": b"\x80\x05\x97.",
    "a long number in letters": HEAD + b"I" + b"9" * 100_000 + b"\n.",
    "names without end": HEAD + b"c" + b"a" * 10**6 + b"\n" + b"b" * 10**6 + b"\n.",
    "a tensor larger than its storage": tensor(b"\x8a\x05\x00\x00\x00\x00\x10\x85", b"K\x01\x85"),
    "a tensor before its storage": tensor(b"K\x01\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"),
    "a negative stride": tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),
    "axes without end": tensor(b"(" + b"K\x01" * 10**5 + b"t", b"(" + b"K\x01" * 10**5 + b"t"),
    "a storage of other numbers": HEAD + STORED.replace(b"K\x04", b"\x8a\x06\x00\x00\x00\x00\x00\x10") + b".",
    "a storage that is not there": HEAD + STORED.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x007") + b".",
    "a storage of fewer than none": HEAD + STORED.replace(b"K\x04", b"J\xff\xff\xff\xff") + b".",
    "a storage of a class": HEAD + STORED.replace(b"torch\nFloatStorage", b"os\nsystem") + b".",
}


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_take_no_memory_and_run_nothing(
    name: str, new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error, or an object that holds nothing but data, in a small part of the memory that is claimed."""
    save({"model": {"a": torch.zeros(4)}})
    with zipfile.ZipFile("file.pth") as old:
        entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    if new:
        with zipfile.ZipFile("evil.pth", "w") as archive:
            for entry, data in entries.items():
                archive.writestr(entry, HOSTILE[name] if entry.endswith("data.pkl") else data)
    else:
        out = io.BytesIO()
        torch.save({}, out, _use_new_zipfile_serialization=False)
        before = b"".join(
            pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        )
        assert out.getvalue().startswith(before[:20])
        Path("evil.pth").write_bytes(
            before + HOSTILE[name].replace(b"K\x04tQ", b"K\x04NtQ") + pickle.dumps([], 2)
        )
    if name == "more opcodes than any":
        monkeypatch.setattr(unpickle, "MOST_OPCODES", 500_000)
    tracemalloc.start()
    try:
        found: object = read_torch(Path("evil.pth"))[0]
    except Exception as error:
        found = error
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 2**20 and not Path("marker").exists()
    assert isinstance(found, (Exception, StandIn, dict, list, Tensor, type(None))), found
    assert not isinstance(found, Tensor) or found.numel() <= 4
    assert name != "more opcodes than any" or "more than 500,000 opcodes" in str(found)
