"""The pickles inside torch's files, read without Python's `pickle`: an interpreter of what tensors need.

Nothing is imported and nothing is called. What a pickle asks for becomes a record of what it asked (`Named`, `Made`),
and is refused where the caller does not list it. Storages are compared with the records that hold their bytes: torch
itself reads as many numbers as the pickle states, wherever they end.

Source: pickletools of CPython for the opcodes; torch/csrc/jit/serialization/pickler.cpp for those that torch writes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["STORAGES", "Made", "Named", "PickleError", "Storage", "largest_offset", "read_pickle"]

STORAGES = {
    "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "HalfStorage": 2, "BFloat16Storage": 2,
    "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8, "DoubleStorage": 8, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}  # fmt: skip
"""Kinds of storage -> bytes of one number."""

_MOST_EXPANDED = 1 << 28
"""Numbers that a tensor may show of a shorter storage, by strides of 0."""


class PickleError(ValueError):
    """The pickle asks for more than tensors and plain data, or is damaged."""


@dataclass(frozen=True)
class Named:
    """A global that the pickle names, e.g. `torch._utils._rebuild_tensor_v2`; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Made:
    """What the pickle would make: a call of `by`, or an object of the class `by` with its state."""

    by: Named
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Storage:
    """Numbers in a record of the archive."""

    key: str
    numbers: int
    kind: str
    """One of `STORAGES`."""


def read_pickle(
    content: bytes, *, called: Collection[str], made: Callable[[Named], bool], record_size: Callable[[str], int | None]
) -> Any:
    """What a pickle holds, with `Named`, `Made` and `Storage` in the place of everything that is not plain data.

    Args:
        content: the pickle.
        called: functions that it may call, by full name.
        made: whether it may make an object of a class.
        record_size: bytes of the record that a storage's key names, None where there is none.

    Raises:
        PickleError: it asks for something else, or is not a pickle.
    """
    machine = _Machine(content, called, made, record_size)
    try:
        for opcode, argument, _ in pickletools.genops(content):
            machine.step(opcode.name, argument)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, EOFError) as error:
        raise PickleError(f"it is not a pickle of tensors ({error})") from error
    return machine.result()


def largest_offset(sizes: Iterable[int], strides: Iterable[int], offset: int) -> int:
    """One past the last number that a tensor of these sizes and strides reads; 0 for an empty tensor.

    Raises:
        PickleError: a size, stride or the offset is negative, or the tensor is far longer than what it reads.
    """
    sizes, strides = list(sizes), list(strides)
    if len(sizes) != len(strides) or any(type(value) is not int or value < 0 for value in (*sizes, *strides, offset)):
        raise PickleError(f"a tensor has sizes {sizes[:8]} and strides {strides[:8]}")
    numbers = 1
    for size in sizes:
        numbers *= size
    last = (
        0
        if numbers == 0
        else offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    )
    if numbers > max(last, _MOST_EXPANDED):
        raise PickleError(f"a tensor of sizes {sizes[:8]} shows {numbers} numbers of {last}")
    return last


class _Machine:
    """The stack and the memo."""

    def __init__(
        self,
        content: bytes,
        called: Collection[str],
        made: Callable[[Named], bool],
        record_size: Callable[[str], int | None],
    ) -> None:
        self._length = len(content)
        self._called, self._made, self._record_size = called, made, record_size
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._stopped = False

    def step(self, opcode: str, argument: Any) -> None:
        """Run one opcode."""
        if opcode in _LITERALS:
            self._stack.append(_LITERALS[opcode]() if argument is None else argument)
        elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(self._memo) if argument is None else argument
            if index > self._length:
                raise PickleError(f"it numbers an object {index}, beyond its own length")
            self._memo[index] = self._stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif opcode == "GLOBAL":
            module, _, name = argument.partition(" ")
            self._stack.append(self._named(module, name))
        elif opcode == "STACK_GLOBAL":
            name, module = self._stack.pop(), self._stack.pop()
            self._stack.append(self._named(module, name))
        elif opcode not in ("PROTO", "FRAME"):
            action = _ACTIONS.get(opcode)
            if action is None:
                raise PickleError(f"it uses the pickle opcode {opcode}, which no tensor needs")
            action(self)

    def result(self) -> Any:
        """The value left on the stack."""
        if not self._stopped or len(self._stack) != 1:
            raise PickleError("it is cut short")
        return self._stack[0]

    def _named(self, module: Any, name: Any) -> Named:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("it names a global by something that is not text")
        named = Named(module, name)
        storage = module in ("torch", "torch.storage") and (name in STORAGES or name == "UntypedStorage")
        if not storage and str(named) not in self._called and not self._made(named):
            raise PickleError(f"it asks for {named}, which no tensor needs")
        return named

    def _marked(self) -> list[Any]:
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _stop(self) -> None:
        self._stopped = True

    def _pop(self) -> None:
        self._stack.pop()

    def _tuple(self) -> None:
        self._stack.append(tuple(self._marked()))

    def _last(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(values)

    def _fill(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list | Made):
            raise PickleError("it puts values into something that holds none")
        if isinstance(target, list):
            target.extend(values)

    def _appends(self) -> None:
        values = self._marked()
        self._fill(values)

    def _append(self) -> None:
        self._fill([self._stack.pop()])

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([(key, value)])

    def _setitems(self) -> None:
        values = self._marked()
        self._fill(list(zip(values[::2], values[1::2], strict=True)))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Named) or str(function) not in self._called or not isinstance(arguments, tuple):
            raise PickleError(f"it calls {str(function)[:100]}, which no tensor needs")
        if function.name == "_rebuild_tensor_v2":
            storage, offset, sizes, strides = arguments[:4]
            if not isinstance(storage, Storage) or largest_offset(sizes, strides, offset) > storage.numbers:
                raise PickleError("a tensor reads beyond the end of its storage")
        self._stack.append(Made(function, arguments))

    def _newobj(self) -> None:
        arguments, cls = self._stack.pop(), self._stack.pop()
        if not isinstance(cls, Named) or not self._made(cls) or not isinstance(arguments, tuple):
            raise PickleError(f"it makes an object of {str(cls)[:100]}, which no tensor needs")
        self._stack.append(Made(cls, arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, Made) or not self._made(target.by):
            raise PickleError("it gives a state to something that has none")
        target.state = state

    def _persistent(self) -> None:
        reference = self._stack.pop()
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise PickleError("it refers to something that is not a storage")
        kind, key, device, numbers = reference[1:5]
        width = STORAGES.get(kind.name if isinstance(kind, Named) else "")
        if width is None or not isinstance(key, str) or type(numbers) is not int or numbers < 0:
            raise PickleError(f"it refers to a storage of kind {str(kind)[:50]}")
        if device != "cpu" and not str(device).startswith("cuda"):
            raise PickleError(f"it refers to a storage on the device {str(device)[:50]!r}")
        size = self._record_size(key)
        if size is None or numbers * width > size:
            raise PickleError(f"storage {key[:50]!r} states {numbers * width} bytes, its record has {size}")
        self._stack.append(Storage(key, numbers, kind.name if isinstance(kind, Named) else ""))


_LITERALS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list, "EMPTY_DICT": list, "BININT": int, "BININT1": int, "BININT2": int, "LONG1": int,
    "BINFLOAT": float, "BINUNICODE": str, "SHORT_BINUNICODE": str, "BINUNICODE8": str,
}  # fmt: skip
"""Opcodes that push a value; a dictionary becomes the list of its (key, value)."""

_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "MARK": _Machine._mark, "STOP": _Machine._stop, "POP": _Machine._pop, "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine: machine._last(1), "TUPLE2": lambda machine: machine._last(2),
    "TUPLE3": lambda machine: machine._last(3), "APPEND": _Machine._append, "APPENDS": _Machine._appends,
    "SETITEM": _Machine._setitem, "SETITEMS": _Machine._setitems, "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._newobj, "BUILD": _Machine._build, "BINPERSID": _Machine._persistent,
}  # fmt: skip
