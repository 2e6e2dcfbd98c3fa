"""Hostile exported programs, TorchScript files and state_dicts."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from payloads import TOKEN, Case, archive, edited, pickled, planted, python, records, shell, system
from torch import nn

WEIGHTS, PROGRAM = "data/weights/model_weights_config.json", "models/model.json"
CONSTANTS, SAMPLES = "data/constants/model_constants_config.json", "data/sample_inputs/model.pt"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def honest_program() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        torch.export.save(torch.export.export(network(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=shapes), file)
    return file.getvalue()


def honest_script() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network()), file)
    return file.getvalue()


Writer = Callable[..., Case]
"""`write(name, content, *command)`: the case of a file of that name and content."""


def first_node(tree: dict) -> dict:
    return tree["graph_module"]["graph"]["nodes"][0]


def first_weight(tree: dict) -> dict:
    return next(iter(tree["config"].values()))


def programs(folder: Path, marker: Path) -> Iterator[Case]:
    good = honest_program()

    def case(name: str, content: bytes, *command: str) -> Case:
        path = folder / f"{name}.pt2"
        path.write_bytes(content)
        return Case("exported program", name, path, command=command)

    yield Case("exported program", "honest", case("honest", good).path, refused=False)
    yield from pickles_in_programs(good, marker, case)
    yield from code_in_programs(good, marker, case)
    yield from damaged_programs(good, case)
    yield case("no_archive", pickled(marker), "export", "FILE", "-o", "out.onnx")


def pickles_in_programs(good: bytes, marker: Path, case: Writer) -> Iterator[Case]:
    """Every record that torch may unpickle holds code."""
    whole = records(good)
    config = json.loads(whole[WEIGHTS])
    first_weight(config).update(use_pickle=True, path_name="weight_evil")
    weight = {WEIGHTS: json.dumps(config).encode(), "data/weights/weight_evil": pickled(marker)}
    yield case("pickled_weight", archive({**whole, **weight}), "inspect", "FILE")
    for kind in ("custom_obj_0", "opaque_obj_0", "tensor_0"):
        constants = {"config": {"c": {"path_name": kind, "is_param": False, "use_pickle": True, "tensor_meta": None}}}
        found = {**whole, CONSTANTS: json.dumps(constants).encode(), f"data/constants/{kind}": pickled(marker)}
        yield case(f"constant_{kind}", archive(found))
    yield case("samples_pickle", archive({**whole, SAMPLES: pickled(marker)}))
    inner = {**records(whole[SAMPLES]), "data.pkl": pickled(marker)}
    yield case("samples_archive", archive({**whole, SAMPLES: archive(inner)}), "bench", "latency", "FILE")
    inner["data.pkl"] = planted()
    yield case("samples_import", archive({**whole, SAMPLES: archive(inner)}))
    yield case("legacy_weights", archive({**whole, "data/weights/model.pt": pickled(marker)}))
    legacy = {
        "version": b"8.20", "serialized_exported_program.json": whole[PROGRAM],
        "serialized_state_dict.pt": pickled(marker), "serialized_constants.pt": pickled(marker),
        "serialized_example_inputs.pt": pickled(marker),
    }  # fmt: skip
    yield case("legacy_archive", archive(legacy, root=""), "inspect", "FILE")


def code_in_programs(good: bytes, marker: Path, case: Writer) -> Iterator[Case]:
    """Libraries, functions to call by name, and texts that torch evaluates as Python."""
    library = {**records(good), "data/aotinductor/model/model.so": b"\x7fELF" + TOKEN.encode()}
    yield case("library", archive(library))
    for number, target in enumerate(
        ("torch.hub.load", "torch.serialization.os.system", "torch.ops.aten.from_file.default", "torch.load", "#ns:op")
    ):
        yield case(f"target_{number}", edited(good, PROGRAM, lambda tree, t=target: first_node(tree).update(target=t)))

    def guard(tree: dict) -> None:
        tree["guards_code"] = [python(marker)]

    def sizes(tree: dict) -> None:
        meta = next(iter(tree["graph_module"]["graph"]["tensor_values"].values()))
        meta["sizes"][0] = {"as_expr": {"expr_str": python(marker), "hint": None}}

    def name(tree: dict) -> None:
        text = f"x); {python(marker)}; (y"
        first_node(tree)["outputs"] = [{"as_tensor": {"name": text}}]
        first_node(tree)["name"] = text

    def tree_class(tree: dict) -> None:
        context = json.dumps({"default_factory_module": "os", "default_factory_name": "system", "dict_context": []})
        spec = json.dumps([1, {"type": "collections.defaultdict", "context": context, "children_spec": []}])
        tree["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = spec

    def parameter(tree: dict) -> None:
        spec = tree["graph_module"]["signature"]["input_specs"][0]["parameter"]
        spec["parameter_name"] = f'a")); {python(marker)} #'

    for change in (guard, sizes, name, tree_class, parameter):
        yield case(f"program_{change.__name__}", edited(good, PROGRAM, change))


def damaged_programs(good: bytes, case: Writer) -> Iterator[Case]:
    """Sizes, paths and records that exhaust memory, lie outside the archive, or are there twice."""

    def huge(tree: dict) -> None:
        first_weight(tree)["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}, {"as_int": 1 << 20}]

    def outside(tree: dict) -> None:
        first_weight(tree)["path_name"] = "../../../../etc/passwd"

    yield case("weight_huge", edited(good, WEIGHTS, huge))
    yield case("weight_path", edited(good, WEIGHTS, outside))
    whole = records(good)
    yield case("record_twice", archive(whole, twice=PROGRAM))
    yield case("record_path", archive({**whole, "../../evil": b""}))
    yield case("two_models", archive({**whole, "models/other.json": whole[PROGRAM]}))
    yield case("deep_json", archive({**whole, PROGRAM: b"[" * 100_000}))
    yield case("bomb", archive({**whole, "extra/zeros": bytes(1 << 29)}, packing=zipfile.ZIP_DEFLATED))


def scripts(folder: Path, marker: Path) -> Iterator[Case]:
    good = records(honest_script())
    code = next(name for name in good if name.endswith("container.py"))

    def case(name: str, found: dict[str, bytes] | bytes, *command: str) -> Case:
        path = folder / f"{name}.pt"
        path.write_bytes(found if isinstance(found, bytes) else archive(found))
        return Case("TorchScript", name, path, command=command)

    yield Case("TorchScript", "honest", case("honest", good).path, refused=False)
    body = good[code].decode()
    head = body.index(") -> Tensor:\n") + len(") -> Tensor:\n")
    for number, line in enumerate(
        (
            f'torch.save(input, "{marker}")',
            f'input.save("{marker}")',
            f'ops.aten.save(input, "{marker}")',
            'y = torch.from_file("/etc/passwd", False, 4)',
            'y = getattr(input, "from_file")',
            "y = ops.quantized.make_quantized_cell_params(input)",
            f'print("{TOKEN}")',
            f"# {TOKEN}",
        )
    ):
        text = f"{body[:head]}    {line}\n{body[head:]}"
        yield case(f"source_{number}", {**good, code: text.encode()}, *(("inspect", "FILE") if number == 0 else ()))
    state = f'  def __setstate__(self, state: Tensor) -> NoneType:\n    torch.save(state, "{marker}")\n'
    yield case("setstate", {**good, code: (body + state).encode()})
    for name, content in (("data.pkl", pickled(marker)), ("constants.pkl", planted())):
        yield case(
            f"pickle_{name[:4]}",
            {**good, name: content},
            *(("evaluate", "FILE", "synthetic-people:") if name == "data.pkl" else ()),
        )
    bound = b"\x80\x02c__torch__.torch.classes.quantized\nConv2dPackedParamsBase\n)\x81}b."
    yield case("bound_class", {**good, "data.pkl": bound})
    yield case("short_storage", {**good, "data/0": b""})
    yield case("twice", archive(good, twice="data.pkl"))
    yield case("old_layout", {**good, "model.json": b"{}"})
    file = io.BytesIO()
    torch.save(system(marker), file)
    yield case("pickled_module", file.getvalue(), "inspect", "FILE")
    yield case("plain_pickle", pickled(marker))


def state_dicts(folder: Path, marker: Path) -> Iterator[Case]:
    def case(name: str, content: bytes, suffix: str = ".pth", *, refused: bool = True) -> Case:
        path = folder / f"state_{name}{suffix}"
        path.write_bytes(content)
        return Case("safetensors" if suffix == ".safetensors" else "state_dict", name, path, refused)

    def saved(value: object, **options: bool) -> bytes:
        file = io.BytesIO()
        torch.save(value, file, **options)
        return file.getvalue()

    state = network().state_dict()
    yield case("honest", saved(state), refused=False)
    yield case("payload", saved({**state, "x": system(marker)}))
    yield case("payload_old", saved({**state, "x": system(marker)}, _use_new_zipfile_serialization=False))
    yield case("plain_pickle", pickled(marker), ".bin")
    yield case("protocol_4", pickle.dumps(system(marker), 4))
    yield case("import", archive({**records(saved(state)), "data.pkl": planted()}))
    yield case("script", honest_script())
    yield case("shell", shell(marker).encode())
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    yield case("huge", len(header).to_bytes(8, "little") + header, ".safetensors")
    yield case("long_header", (1 << 60).to_bytes(8, "little") + b"{}", ".safetensors")
    yield case("deep_header", (100_000).to_bytes(8, "little") + b"[" * 100_000, ".safetensors")
    yield case("pickle", pickled(marker), ".safetensors")
