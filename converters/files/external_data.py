"""External data: the weights that an ONNX file keeps in other files. Found, checked and read here, and nowhere else.

All of it is checked before any of it is read: entries, places, kinds of file and sizes, of every tensor that
`stored_tensors` finds. Then small tensors and those outside the main graph are put into the proto; each large weight
stays in its file and is read through the descriptor that was checked. A model in memory has no folder to look in (an
empty one would mean the current folder), so there external data is refused. onnx-ir is imported where it is used: the
checks must not wait for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from ...errors import InputError
from ..records.file_digest import OpenFile
from .data_files import DataFile, find_data_file
from .external_entries import Entries, read_entries, size_of
from .large_weights import LARGE, PLAIN
from .model_bytes import Place
from .stored_tensors import StoredTensor, stored_tensors

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from .file_tensor import ExternalWeight

__all__ = [
    "ExternalData",
    "bring_in_tensors",
    "external_locations",
    "find_external_data",
]

_KEPT_OPEN = 32
"""Data files; exporters that write one file per weight would otherwise use up the descriptors of a process."""


@dataclass(frozen=True)
class _Wanted:
    """One tensor, the bytes it needs, and the file that has them."""

    label: str
    weight: str | None
    """Its name where it is an initializer of the main graph."""
    dtype: int
    place: Place
    data: DataFile
    file: OpenFile | None
    """The data file, where it was kept open."""

    @property
    def may_stay(self) -> bool:
        """Whether it may stay in its file: large, and of a type that is read straight into its parameter."""
        is_large = self.place.length > LARGE and self.dtype in PLAIN
        return is_large and self.weight is not None and self.file is not None and hasattr(os, "preadv")


@dataclass(frozen=True)
class ExternalData:
    """What a model has in other files, all of it checked and none of it read yet."""

    files: tuple[Path, ...] = ()
    """The data files as the model names them, sorted; two may name one file."""
    _wanted: tuple[_Wanted, ...] = ()
    """In the order of `stored_tensors`."""

    @property
    def changed(self) -> Iterator[Path]:
        """Data files that are no longer what was checked."""
        return (
            path for path, entry in {entry.data.path: entry for entry in self._wanted}.items() if entry.data.is_changed
        )

    def fill(self, proto: onnx.ModelProto, *, leave_large: bool = False) -> None:
        """Put the data into the model that was checked, or into a copy of it, in place.

        Args:
            proto: that model.
            leave_large: leave large initializers of the main graph in their files, for `put_weights_into`.

        Raises:
            InputError: a data file was changed or replaced since it was checked.
        """
        external = [stored.tensor for stored in stored_tensors(proto, "") if stored.is_external]
        for tensor, entry in zip(external, self._wanted, strict=True):
            if not (leave_large and entry.may_stay):
                _inline(tensor, entry)

    def put_weights_into(self, model: ir.Model) -> None:
        """Give the large initializers of an IR their weights, which are read when they are asked for."""
        for entry in self._left:
            assert entry.weight is not None
            value = model.graph.initializers[entry.weight]
            assert value.const_value is not None
            value.const_value = _weight(entry, value.const_value)

    def weights(self, proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        """The large weights by name, read now; `proto` is one in which they were left out."""
        import onnx_ir as ir

        tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        return {
            entry.weight: _weight(entry, ir.serde.deserialize_tensor(tensors[entry.weight])).numpy()
            for entry in self._left
            if entry.weight is not None
        }

    @property
    def _left(self) -> Iterator[_Wanted]:
        return (entry for entry in self._wanted if entry.may_stay)


def _weight(entry: _Wanted, like: ir.TensorProtocol) -> ExternalWeight:
    from .file_tensor import ExternalWeight

    assert entry.file is not None
    return ExternalWeight(entry.data, entry.file, entry.place, like)


def find_external_data(proto: onnx.ModelProto, name: str, path: Path | None) -> ExternalData:
    """Find and check all external data of `proto`, which stays as it is; `name` is for messages.

    Args:
        proto: the model in the file `path`.
        path: None for a model in memory.

    Raises:
        InputError: naming the tensor, the location, what was expected and the way out.
    """
    stored = [tensor for tensor in stored_tensors(proto, name) if tensor.is_external]
    if not stored:
        return ExternalData()
    if path is None:
        _refuse_in_memory(stored[0])
    assert path is not None
    wanted = _checked(stored, path)
    _refuse_larger_than_memory(name, sum(entry.place.length for entry in wanted))
    return ExternalData(tuple(sorted({entry.data.path for entry in wanted})), tuple(wanted))


def bring_in_tensors(model: ir.Model) -> None:
    """Check and read the external tensors of an IR that a caller made, in place; it must be a copy of our own.

    Raises:
        InputError: as `find_external_data`, or such a tensor does not say in which folder its data lies.
    """
    import onnx_ir as ir

    for graph in (*model.graphs(), *(graph for function in model.functions.values() for graph in function.subgraphs())):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _loaded(value.const_value, f"initializer '{value.name}'")
    parts: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for part in parts:
        for node in _nodes(part):
            label = f"node '{node.name}' ({node.op_type}): attribute"
            for name, attribute in list(node.attributes.items()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    node.attributes[name] = ir.AttrTensor(name, _loaded(attribute.as_tensor(), f"{label} '{name}'"))
                elif attribute.type == ir.AttributeType.TENSORS:
                    tensors = [_loaded(tensor, f"{label} '{name}'") for tensor in attribute.as_tensors()]
                    node.attributes[name] = ir.AttrTensors(name, tensors)


def _nodes(part: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    import onnx_ir as ir

    return iter(ir.traversal.RecursiveGraphIterator(part))


def _loaded(tensor: ir.TensorProtocol, label: str) -> ir.TensorProtocol:
    import onnx_ir as ir

    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    stored = StoredTensor(f"<memory>: {label}", ir.serde.serialize_tensor(tensor), None)
    if not os.fspath(tensor.base_dir):
        _refuse_in_memory(stored)
    _inline(stored.tensor, _checked([stored], Path(tensor.base_dir) / "<memory>")[0])
    return ir.serde.deserialize_tensor(stored.tensor)


def external_locations(proto: onnx.ModelProto, name: str) -> tuple[str, ...]:
    """The locations that `proto` names, sorted and in quotes; nothing is looked up."""
    external = [stored.tensor for stored in stored_tensors(proto, name) if stored.is_external]
    named = {repr(entry.value) for tensor in external for entry in tensor.external_data if entry.key == "location"}
    return tuple(sorted(named))


def _refuse_in_memory(stored: StoredTensor) -> None:
    read_entries(stored)  # what is wrong in itself is said first
    raise InputError(f"{stored.label} is external data of a model in memory; give the path of the .onnx file")


def _checked(stored: Sequence[StoredTensor], path: Path) -> list[_Wanted]:
    """Every tensor with its place in a file that may be read; the first few of those files stay open."""
    entries = [read_entries(tensor) for tensor in stored]
    sizes = [size_of(tensor, entry) for tensor, entry in zip(stored, entries, strict=True)]
    found: dict[str, DataFile] = {}
    open_files: dict[tuple[int, int], OpenFile] = {}
    wanted = []
    for tensor, entry, size in zip(stored, entries, sizes, strict=True):
        if entry.location not in found:
            data, file = find_data_file(entry.location, path, tensor.label)
            found[entry.location] = data
            if len(open_files) < _KEPT_OPEN:
                open_files.setdefault(data.identity, file)
        data = found[entry.location]
        if entry.offset + size > data.size:
            raise InputError(
                f"{tensor.label}: expected bytes {entry.offset}..{entry.offset + size} of {data.path}, which has "
                f"{data.size}; the data file is cut or another model's, copy it again"
            )
        place, kept = Place(entry.offset, size), open_files.get(data.identity)
        wanted.append(_Wanted(tensor.label, tensor.weight, int(tensor.tensor.data_type), place, data, kept))
    _check_sums(wanted, entries)
    return wanted


def _refuse_larger_than_memory(name: str, size: int) -> None:
    """A file may be sparse on the disk, and thousands of tensors may share its bytes; memory is not."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return
    if size > memory:
        raise InputError(
            f"{name}: its external data needs {size / 2**30:.1f} GiB, this machine has {memory / 2**30:.1f}; the file "
            "is damaged, or use a machine with more memory"
        )


def _check_sums(wanted: Sequence[_Wanted], entries: Sequence[Entries]) -> None:
    """Hold each data file to the SHA-1 that the model states, where it does."""
    sums: dict[tuple[int, int], str] = {}
    for entry, stated in zip(wanted, entries, strict=True):
        if not stated.checksum:
            continue
        data = entry.data
        if data.identity not in sums:
            file = entry.file or data.open(entry.label)
            with open(os.dup(file.descriptor), "rb") as stream:
                stream.seek(0)
                sums[data.identity] = hashlib.file_digest(stream, "sha1").hexdigest()
        if sums[data.identity] != stated.checksum:
            raise InputError(
                f"{entry.label}: external data file {data.path} has the SHA-1 {sums[data.identity][:12]}..., "
                f"the model states {stated.checksum[:12]}...; it is another model's or damaged, copy it again"
            )


def _inline(tensor: onnx.TensorProto, entry: _Wanted) -> None:
    """Put the data of one tensor into its proto."""
    file = entry.file or entry.data.open(entry.label)
    entry.data.check(file, entry.label)
    content = b"".join(_pieces(file, entry.place))
    if len(content) != entry.place.length:
        raise InputError(
            f"{entry.label}: external data file {entry.data.path} was cut short while it was read; copy it again"
        )
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = content


def _pieces(file: OpenFile, place: Place) -> Iterator[bytes]:
    with open(os.dup(file.descriptor), "rb", buffering=0) as stream:
        done = 0
        while done < place.length:
            stream.seek(place.offset + done)
            piece = stream.read(place.length - done)
            if not piece:
                return
            done += len(piece)
            yield piece
