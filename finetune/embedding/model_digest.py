"""The digest of what an opened model computes with, by which its embeddings are kept: never its path, never a time.

An ONNX file in a runtime is its bytes and those of its external data. What runs in torch is taken from memory, as it
was loaded: graph, `bundle.json` and every tensor, so that `--weights` and a bundle that is replaced meanwhile count. A
served model is the file that its deployment names by SHA-256; where the server does not state it, nothing else can
tell one version from another, and the model is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...converters.runtime.reference_runner import ReferenceRunner
from ...converters.runtime.runners import OnnxRunner, Runner
from ...converters.runtime.triton import TritonRunner
from ...errors import InputError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    from torch import Tensor, nn

    from ...converters.bundles.reference import Model
    from ...converters.files.model_file import ModelFile

__all__ = ["digest_of_model", "digest_of_module", "digest_of_runner"]


def digest_of_runner(runner: Runner) -> str:
    """Of an ONNX file in a runtime, or of a served model: hexadecimal digits.

    Raises:
        InputError: the server does not state it, a file changed since it was opened, or the runner is of neither kind.
    """
    if isinstance(runner, OnnxRunner | ReferenceRunner):
        return _of_file(runner.file)
    if isinstance(runner, TritonRunner):
        return f"served {runner.model.served_digest()}"
    raise InputError(
        f"{runner.name}: is a model in memory, and nothing says which, so its embeddings cannot be kept; give its "
        "file, or leave the cache out"
    )


def digest_of_model(model: Model) -> str:
    """Of a model that runs in torch: hexadecimal digits.

    Raises:
        InputError: a file changed since it was opened, or can no longer be read.
    """
    if model.kind in ("torchscript", "exported"):
        assert model.path is not None
        return _of_bytes(model.path)
    digest = hashlib.sha256(model.kind.encode())
    if model.file is not None:
        digest.update(_of_file(model.file).encode())
    if model.bundle is not None:
        digest.update(json.dumps(dict(model.bundle.metadata), sort_keys=True).encode())
        if model.bundle.stripped is not None:
            digest.update(model.bundle.stripped.SerializeToString(deterministic=True))
    if model.kind == "zoo":
        digest.update(model.name.encode())
    _add_tensors(digest, model.module)
    return digest.hexdigest()


def digest_of_module(module: nn.Module, computed: str) -> str:
    """Of a module in memory: its layers, the code of its graph, and every tensor; `computed` says how it is run."""
    from torch import fx

    code = "\n".join(part.code for part in module.modules() if isinstance(part, fx.GraphModule))
    digest = hashlib.sha256(f"{computed}\n{module!r}\n{code}".encode())
    _add_tensors(digest, module)
    return digest.hexdigest()


def _add_tensors(digest: Hash, module: nn.Module) -> None:
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_raw(tensor))


def _raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor of any dtype, bfloat16 included, which NumPy lacks."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _of_file(file: ModelFile) -> str:
    if not file.is_named or file.path is None:
        digest = hashlib.sha256(file.content() if not file.has_external_data else file.proto().SerializeToString())
        return digest.hexdigest()
    digests = [str(file.source.sha256), *map(_of_bytes, file.files[1:])]
    file.check_unchanged()
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _of_bytes(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: can no longer be read ({error.strerror}); open the model again") from error
