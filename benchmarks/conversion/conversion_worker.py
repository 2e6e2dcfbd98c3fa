"""One converter in a process of its own: requests come as JSON lines on stdin, replies go as JSON lines to stdout.

    python -P benchmarks/conversion/conversion_worker.py onnx2pytorch

Runs in the environment of the converter, where rtool is not installed, so it imports only torch, NumPy, onnx and that
converter. Arrays are passed in NumPy files; those of element types that NumPy lacks, as their bits.

A request names what to `do`: `run` (convert, then run), `convert` (time it and measure the peak memory) or `inspect`
(trainable weights; whether scripting, exporting and compiling work). A reply has either results, or an `error` and the
`stage` at which it was raised; `refused`: the tool itself named what it does not support.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["TOOLS", "main"]

_BITS = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8", "float8_e4m3fnuz": "uint8"}
_BITS |= {"float8_e5m2fnuz": "uint8", "float8_e8m0fnu": "uint8"}
"""torch's element type -> NumPy's integer type of the same size."""


class _AbsentError(NotImplementedError):
    pass


def _rtool(path: Path, inputs: Sequence[Any]) -> Any:  # noqa: ARG001
    from rtool.converters import onnx_to_torch  # by name: this file runs as a script, outside its package

    return onnx_to_torch(path)


def _onnx2torch(path: Path, inputs: Sequence[Any]) -> Any:  # noqa: ARG001
    import onnx2torch  # type: ignore[import-not-found]

    return onnx2torch.convert(str(path))


def _onnx2pytorch(path: Path, inputs: Sequence[Any]) -> Any:  # noqa: ARG001
    import onnx
    import onnx2pytorch  # type: ignore[import-not-found]

    return onnx2pytorch.ConvertModel(onnx.load(path))


def _pnnx(path: Path, inputs: Sequence[Any]) -> Any:
    """Its program writes a Python module beside the model; a second input shape makes the batch dynamic."""
    import pnnx  # type: ignore[import-not-found]

    folder = Path(tempfile.mkdtemp(dir=path.parent))  # not removed: torch reads the code again when it scripts
    copy = folder / "model.onnx"
    copy.symlink_to(path.resolve())
    shapes = [list(array.shape) for array in inputs]
    other = [[shape[0] + 1, *shape[1:]] for shape in shapes]
    words = [f"inputshape={_joined(shapes)}", f"inputshape2={_joined(other)}"]
    done = subprocess.run([pnnx.EXEC_PATH, copy.name, *words], cwd=folder, capture_output=True, check=False)
    source = copy.with_name("model_pnnx.py")
    if done.returncode or not source.is_file():
        last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"pnnx ended with {done.returncode}: {last[-1] if last else 'no message'}")
    spec = importlib.util.spec_from_file_location("model_pnnx", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_pnnx"] = module
    before = os.getcwd()
    os.chdir(folder)  # its class opens the weights by their file name alone
    try:
        spec.loader.exec_module(module)
        return module.Model()
    finally:
        os.chdir(before)


def _joined(shapes: Sequence[Sequence[int]]) -> str:
    return ",".join(str(shape).replace(" ", "") for shape in shapes)


TOOLS: dict[str, Callable[[Path, Sequence[Any]], Any]] = {
    "rtool": _rtool,
    "onnx2torch": _onnx2torch,
    "onnx2pytorch": _onnx2pytorch,
    "pnnx": _pnnx,
}
"""Converter -> (file, example inputs) -> module. Only pnnx uses the inputs."""


def _stand_in_for_torchvision() -> None:
    """Replace torchvision, which other converters import for a few operators; without it only those are refused."""
    try:
        import torchvision  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:

        def absent(*_: Any, **__: Any) -> Any:
            raise _AbsentError("needs torchvision, which is not installed")

        class ImageReadMode:
            GRAY = RGB = None

        names = ("box_convert", "nms", "roi_align", "roi_pool", "deform_conv2d", "decode_image")
        modules = {name: ModuleType(name) for name in ("torchvision", "torchvision.ops", "torchvision.io")}
        for module in modules.values():
            vars(module).update(dict.fromkeys(names, absent), ImageReadMode=ImageReadMode)
        vars(modules["torchvision"]).update(ops=modules["torchvision.ops"], io=modules["torchvision.io"])
        sys.modules.update(modules)


# -- arrays ---------------------------------------------------------------------------------------------------------


def _read_inputs(request: dict[str, Any]) -> dict[str, Any]:
    """Tensors by the name of the graph input, bit for bit."""
    import numpy as np
    import torch

    if "inputs" not in request:
        return {}
    with np.load(request["inputs"]) as arrays:
        return {
            name: torch.from_numpy(np.array(arrays[f"a{index}"])).view(getattr(torch, dtype))
            for index, (name, dtype) in enumerate(request["types"])
        }


def _write_outputs(path: str, results: Any) -> list[str]:
    """Save the tensors and return the element type of each, or the Python type of what is not a tensor."""
    import numpy as np
    import torch

    found = list(results) if isinstance(results, (tuple, list)) else [results]
    arrays, kinds = {}, []
    for index, result in enumerate(found):
        if not isinstance(result, torch.Tensor):
            kinds.append(f"a {type(result).__name__}")
            continue
        kinds.append(str(result.dtype).removeprefix("torch."))
        plain = result.detach().cpu().contiguous().resolve_conj().resolve_neg()
        bits = _BITS.get(kinds[-1])
        arrays[f"a{index}"] = (plain.view(getattr(torch, bits)) if bits else plain).numpy()
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return kinds


def _arguments(tool: str, module: Any, inputs: dict[str, Any]) -> list[Any]:
    """All tensors in graph order; rtool removes unused inputs and lists the remaining ones."""
    if tool != "rtool":
        return list(inputs.values())
    from rtool.converters import require_record

    return [inputs[spec.name] for spec in require_record(module).inputs]


# -- requests -------------------------------------------------------------------------------------------------------


def _run(tool: str, request: dict[str, Any], inputs: dict[str, Any], stage: list[str]) -> dict[str, Any]:
    import torch

    module = TOOLS[tool](Path(request["model"]), list(inputs.values()))
    stage[0] = "running"
    with torch.no_grad():
        results = module.eval()(*_arguments(tool, module, inputs))
    return {"kinds": _write_outputs(request["outputs"], results)}


def _convert(tool: str, request: dict[str, Any], inputs: dict[str, Any], stage: list[str]) -> dict[str, Any]:
    before = _peak_bytes()
    started = time.perf_counter()
    module = TOOLS[tool](Path(request["model"]), list(inputs.values()))
    seconds = time.perf_counter() - started
    peak = max(_peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 if tool == "pnnx" else 0)
    reply: dict[str, Any] = {"seconds": seconds, "before": before, "peak": peak}
    if "outputs" in request:
        stage[0] = "running"
        import torch

        with torch.no_grad():
            results = module.eval()(*_arguments(tool, module, inputs))
        reply["kinds"] = _write_outputs(request["outputs"], results)
    return reply


def _peak_bytes() -> int:
    """Peak memory of this process in bytes, as the kernel counts it, without that of its parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _inspect(tool: str, request: dict[str, Any], inputs: dict[str, Any], stage: list[str]) -> dict[str, Any]:
    """The number of trainable weights, and whether scripting, exporting and compiling work."""
    import torch

    arguments = [tensor.clone() for tensor in inputs.values()]

    def module() -> Any:
        return TOOLS[tool](Path(request["model"]), arguments).eval()

    trainable = {id(p): p.numel() for p in module().parameters() if p.requires_grad}
    stage[0] = "running"
    with torch.no_grad():
        module()(*arguments)
    dynamic = [{0: torch.export.Dim.DYNAMIC} for _ in arguments]
    compiled: Any = torch.compile
    attempts: dict[str, Callable[[], Any]] = {
        "jit.script": lambda: torch.jit.script(module())(*arguments),
        "export, dynamic batch": lambda: _exported(module(), arguments, dynamic),
        "compile(fullgraph)": lambda: compiled(module(), fullgraph=True, backend="eager")(*arguments),
    }
    abilities = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            abilities[name] = ""
        except BaseException as error:
            abilities[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[
                :200
            ]
    return {"trainable": sum(trainable.values()), "abilities": abilities}


def _exported(module: Any, arguments: Sequence[Any], dynamic: Sequence[Any]) -> Any:
    """Export with a dynamic batch and run with another batch."""
    import torch

    shapes = (tuple(dynamic),) if _takes_varargs(module) else tuple(dynamic)
    program = torch.export.export(module, tuple(arguments), dynamic_shapes=shapes, strict=False)
    return program.module()(*(torch.cat([tensor, tensor[:1]]) for tensor in arguments))


def _takes_varargs(module: Any) -> bool:
    import inspect

    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())


def main(arguments: Sequence[str]) -> int:
    """Serve requests until stdin ends."""
    (tool,) = arguments
    # What the converters print goes to stderr: stdout is for the replies only.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    _stand_in_for_torchvision()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    _warm(tool)
    actions = {"run": _run, "convert": _convert, "inspect": _inspect}
    for line in sys.stdin:
        request = json.loads(line)
        stage = ["converting"]
        try:
            reply = actions[request["do"]](tool, request, _read_inputs(request), stage)
        except BaseException as error:
            text = str(error) or "no message"
            reply = {"stage": stage[0], "error": f"{type(error).__name__}: {text}", "refused": _is_refusal(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    return 0


def _is_refusal(error: BaseException) -> bool:
    """Whether the tool itself reports that it does not support the model."""
    return isinstance(error, NotImplementedError) or any(c.__name__ == "RtoolError" for c in type(error).__mro__)


def _warm(tool: str) -> None:
    """Convert one operator, so that imports and one-time set-up are not measured."""
    if tool == "pnnx":  # a separate program: nothing to warm up
        import pnnx  # noqa: F401

        return
    import onnx
    import torch

    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "warm", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=6)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relu.onnx"
        onnx.save(model, path)
        TOOLS[tool](path, [torch.zeros(1, 3)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
