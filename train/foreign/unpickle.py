"""Pickles of `torch.save` read without unpickling: tensors come out, nothing that a pickle names runs.

A small machine walks the opcodes.  It makes tensors, numbers, texts, lists, tuples and dictionaries.  Any
other class or function is a `StandIn`, and whatever is called, built or filled by one is passed over.
Memory is used in proportion to the pickle.

Source: Python's pickletools for the opcodes, torch._utils for how tensors are pickled.
"""

import io
import mmap
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

# a ViT-H beside its optimizer has 100,000; a tensor takes about 500 bytes of memory
MOST_OPCODES: Final = 3_000_000
MOST_AXES: Final = 8
# letters of a module's name and of what it holds
MOST_NAME: Final = 100

# numbers of a storage, in one dimension, of: their type, the storage's name, their count
Storage = Callable[[torch.dtype, str, int], Tensor]
Values = list[Any]


@dataclass(frozen=True, slots=True, eq=False)
class StandIn:
    """What any other object is read as."""

    # of the class or function that would have made it
    name: str


class BadPickle(Exception):
    """No file of torch.save's, or a damaged one."""


def unpickle(file: io.BytesIO | mmap.mmap, storage: Storage, asked: dict[str, None]) -> object:
    """The object that a pickle at a file's place describes; the file stands behind it.

    asked: gets the names of what is stood in for.  Raises BadPickle, and of a damaged pickle nearly any other
    Exception.
    """
    stack: Values = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for op, arg in _opcodes(file):
        if op in _VALUES:
            stack.append(arg)
        elif op in _MADE:
            count, make = _MADE[op]
            at = len(stack) - count if count >= 0 else marks.pop() + count - MARKED
            if at < 0:
                raise BadPickle("an opcode lacks its values")
            values = stack[at:]
            del stack[at:]
            stack.append(make(values))
        elif op in ("GLOBAL", "INST", "STACK_GLOBAL"):
            if op == "INST":
                del stack[marks.pop() :]
            name = stack.pop() if op == "STACK_GLOBAL" else arg.partition(" ")[2]
            module = stack.pop() if op == "STACK_GLOBAL" else arg.partition(" ")[0]
            stack.append(_named(module, name, asked))
        elif op in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[arg])
        elif op in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif op == "MARK":
            marks.append(len(stack))
        elif op == "DUP":
            stack.append(stack[-1])
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            del stack[marks.pop() :]
        elif op == "BINPERSID":
            stack.append(_stored(stack.pop(), storage))
        elif op == "STOP":
            return stack.pop()
        elif op not in ("PROTO", "FRAME"):
            raise BadPickle(f"torch.save writes no opcode {op}")
    raise BadPickle("its description has no end")


def _opcodes(file: io.BytesIO | mmap.mmap) -> Iterator[tuple[str, Any]]:
    for number, (op, arg, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if number == MOST_OPCODES:
            raise BadPickle(f"its description has more than {MOST_OPCODES:,} opcodes")
        yield op.name, arg


def _named(module: object, name: object, asked: dict[str, None]) -> object:
    """What stands for a class or function."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise BadPickle("a name is no text")
    full = f"{module[:MOST_NAME]}.{name[:MOST_NAME]}"
    known = _FUNCTIONS.get(full) or _DTYPES.get(full)
    if known is None:
        asked[full] = None
    return known or StandIn(full)


def _stored(saved: Any, storage: Storage) -> object:
    """The storage that a persistent id names: ('storage', type, name, device, count), of old with a view."""
    if not isinstance(saved, tuple) or len(saved) < 5:
        # the source code of a class, in the old format
        return saved[1] if isinstance(saved, tuple) and len(saved) > 1 else StandIn("a persistent id")
    _, dtype, key, _, count, *view = saved
    if isinstance(dtype, StandIn):
        return dtype
    if not isinstance(dtype, torch.dtype) or type(count) is not int or any(view) or not isinstance(key, str):
        raise BadPickle("a storage is described otherwise than torch.save does")
    return storage(dtype, key, max(count, 0))


def _called(values: Values) -> object:
    """What a call, or making an object, gives: of a class or function and its arguments."""
    function, arguments = values[:2]
    if callable(function) and isinstance(arguments, tuple):
        return function(*arguments)
    return function if isinstance(function, StandIn) else StandIn(type(function).__name__)


def _filled(values: Values) -> object:
    """A dictionary with keys and values behind it put into it; anything else stays as it is."""
    target = values[0]
    if isinstance(target, dict):
        for key, value in zip(values[1::2], values[2::2], strict=True):
            # tuples may be too deep to be hashed, and name no tensor
            if isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**63):
                target[key] = value
    return target


def _appended(values: Values) -> object:
    """A list with the values behind it; anything else stays as it is."""
    if isinstance(values[0], list):
        values[0].extend(values[1:])
    return values[0]


def _tensor(flat: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> object:
    """A view of a storage."""
    if not isinstance(flat, Tensor):
        return StandIn("a tensor of another kind")
    if len(size) > MOST_AXES:
        raise BadPickle(f"a tensor has {len(size):,} axes")
    # torch refuses what lies outside
    return flat.as_strided(size, stride, offset)


def _first(value: object, *_: object) -> object:
    return value


# taken for a class or function: what a state_dict is made of
_FUNCTIONS: Final[dict[str, Callable[..., object]]] = {
    "collections.OrderedDict": lambda *_: {},
    "collections.defaultdict": lambda *_: {},
    "torch.Size": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    # a tensor with attributes, or of a class of its own
    "torch._tensor._rebuild_from_type_v2": lambda function, _, arguments, *__: _called([function, arguments]),
}
_DTYPES: Final[dict[str, torch.dtype]] = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}
# opcodes whose argument is the value
_VALUES: Final = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    ]
)
# values that an opcode takes: so many; those above the last mark; and the one below it
MARKED, MARKED_AND_BELOW = -1, -2
# opcodes that take values and give one
_MADE: Final[dict[str, tuple[int, Callable[[Values], object]]]] = {
    "NONE": (0, lambda _: None),
    "NEWTRUE": (0, lambda _: True),
    "NEWFALSE": (0, lambda _: False),
    "EMPTY_TUPLE": (0, tuple),
    "TUPLE1": (1, tuple),
    "TUPLE2": (2, tuple),
    "TUPLE3": (3, tuple),
    "TUPLE": (MARKED, tuple),
    "EMPTY_LIST": (0, list),
    "LIST": (MARKED, list),
    "APPEND": (2, _appended),
    "APPENDS": (MARKED_AND_BELOW, _appended),
    "EMPTY_DICT": (0, lambda _: {}),
    "DICT": (MARKED, lambda values: _filled([{}, *values])),
    "SETITEM": (3, _filled),
    "SETITEMS": (MARKED_AND_BELOW, _filled),
    "EMPTY_SET": (0, lambda _: StandIn("set")),
    "ADDITEMS": (MARKED_AND_BELOW, lambda values: values[0]),
    "FROZENSET": (MARKED, lambda _: StandIn("frozenset")),
    "REDUCE": (2, _called),
    "NEWOBJ": (2, _called),
    "NEWOBJ_EX": (3, _called),
    "OBJ": (MARKED, lambda values: _called([values[0], ()])),
    # attributes
    "BUILD": (2, lambda values: values[0]),
}
