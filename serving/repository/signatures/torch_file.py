"""The bytes of a torch file, TorchScript or an exported program, opened through the checked readers alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....converters.files.model_bytes import TORCH_SUFFIXES
from ....converters.records.interface import INTERFACE_KEY
from ....errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from ....converters.records.record import TensorSpec

__all__ = ["METADATA_KEYS", "TorchFile", "is_torch_file"]

METADATA_KEYS = (
    INTERFACE_KEY,
    *(f"rtool.{name}" for name in ("preprocessing", "source", "source_sha256", "steps", "chain", "model", "version")),
)
"""What `rtool export` states in a torch file."""


def is_torch_file(path: Path) -> bool:
    """Whether a file's name says that torch opens it."""
    return path.suffix in TORCH_SUFFIXES


@dataclass(frozen=True)
class TorchFile:
    """A file as it was read once; its module is opened on first use."""

    path: Path
    content: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> TorchFile:
        """Read a file.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return cls(path, path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error

    @property
    def is_program(self) -> bool:
        """Whether it is an exported program (`.pt2`), else TorchScript."""
        return self.path.suffix == ".pt2"

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def module(self) -> nn.Module:
        """The module.

        Raises:
            InputError: the file holds more than operators on tensors, is damaged, or is something else.
        """
        return self._opened[0]

    @property
    def metadata(self) -> dict[str, str]:
        """What `rtool export` stated in it, by key."""
        return self._opened[1]

    def arguments(self) -> Sequence[str]:
        """The arguments of `forward`; the inputs by the program's own names for an exported program.

        Raises:
            InputError: as `module`, or it takes or returns something else than tensors.
        """
        if self.is_program:
            return [str(name) for name in self._opened[2].graph_signature.user_inputs]
        module: Any = self.module
        schema = module._c._get_method("forward").schema
        taken = [argument for argument in schema.arguments if argument.name != "self"]
        others = [f"{one.name} ({one.type})" for one in taken if str(one.type) != "Tensor"]
        if others:
            raise InputError(f"{self.path}: takes {', '.join(others)}, and is served with tensors alone; wrap it")
        (returned,) = schema.returns
        parts = returned.type.elements() if str(returned.type).startswith("Tuple[") else [returned.type]
        if any(str(part) != "Tensor" for part in parts):
            raise InputError(f"{self.path}: returns {returned.type}, expected a tensor or a tuple of tensors; wrap it")
        return [argument.name for argument in taken]

    def interface(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as the file states them; two empty tuples where it states none, as TorchScript of others.

        Raises:
            InputError: as `module`, or what `rtool export` states in it is damaged.
        """
        from ....converters.bundles.program_interface import program_interface
        from ....converters.records.interface import interface_of

        stated = interface_of(self.metadata.get(INTERFACE_KEY), str(self.path))
        return program_interface(self._opened[2]) if self.is_program and not all(stated) else stated

    def as_script(self) -> bytes:
        """An exported program as TorchScript.

        Raises:
            InputError: as `module`, or it cannot be written so.
        """
        import io

        import torch

        from ....converters.exporting.program_script import script_of_program

        module = self.module
        assert isinstance(module, torch.fx.GraphModule)
        file = io.BytesIO()
        torch.jit.save(script_of_program(self._opened[2], module, str(self.path)), file)
        return file.getvalue()

    @cached_property
    def _opened(self) -> tuple[nn.Module, dict[str, str], Any]:
        from ....converters.files.torch_archives.programs import load_program
        from ....converters.files.torch_archives.scripts import load_script

        if self.is_program:
            program, graph_module, stated = load_program(self.path, METADATA_KEYS, self.content)
            return graph_module, stated, program
        script, stated = load_script(self.path, METADATA_KEYS, self.content)
        return script.eval(), stated, None
