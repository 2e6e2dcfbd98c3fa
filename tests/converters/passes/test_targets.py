"""Models are pinned to what a target reads, or refused; only traces of the exporter are removed."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import export, pin_to_target, strip_metadata
from rtool.converters.exporting import onnx_steps as exporting
from rtool.converters.passes.targets import TARGETS, check_precision
from rtool.errors import InputError


def model(opset: int = 17, ir_version: int = 12) -> onnx.ModelProto:
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], [f"{name}_y"], name=f"{name}_add", doc_string="/home/me/model.py")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [2])],
        )
        for name in ("then", "otherwise")
    ]
    node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=branches[0], else_branch=branches[1])
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/train.py, line 3")
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.float32([1, 2]), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    made.metadata_props.add(key="rtool.preprocessing", value="{}")
    return made


def function_with_a_branch() -> onnx.FunctionProto:
    """A function whose subgraph has documented attributes and tensors."""
    constant = numpy_helper.from_array(np.float32([1, 2]))
    constant.doc_string = "/home/me/constant.py"
    inner = helper.make_node("Constant", [], ["y"], value=constant)
    inner.attribute[0].doc_string = "/home/me/attribute.py"
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    branches = {f"{name}_branch": helper.make_graph([inner], name, [], [output]) for name in ("then", "else")}
    choice = helper.make_node("If", ["c"], ["z"], **branches)
    return helper.make_function("local", "Choice", ["c"], ["z"], [choice], [helper.make_opsetid("", 17)])


def test_paths_and_traces_go_and_the_models_own_metadata_stays():
    source = model()
    source.functions.append(function_with_a_branch())
    source.opset_import.append(helper.make_opsetid("local", 1))
    stripped = strip_metadata(source)
    assert source.SerializeToString().count(b"/home/me") == 7
    assert b"/home/me" in source.SerializeToString()
    assert b"/home/me" not in stripped.SerializeToString()
    assert [entry.key for entry in stripped.metadata_props] == ["rtool.preprocessing"]
    inputs = {"c": np.array(True), "x": np.float32([1, 2])}
    a, b = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        for m in (source, stripped)
    )
    assert np.array_equal(a, b)


def test_a_model_without_traces_stays_byte_for_byte():
    stripped = strip_metadata(model())
    assert strip_metadata(stripped).SerializeToString() == stripped.SerializeToString()


def test_ir_version_is_lowered_to_the_targets():
    source = model()
    pinned = pin_to_target(source, "triton:24.10")
    assert (pinned.ir_version, source.ir_version) == (10, 12)
    onnx.checker.check_model(pinned, full_check=True)
    assert pin_to_target(model(ir_version=8), "triton:24.10").ir_version == 8


def test_a_newer_opset_than_the_target_reads_is_refused():
    with pytest.raises(InputError, match=r"opset 22 is newer than triton:24\.10 reads \(21\)"):
        pin_to_target(model(opset=22), "triton:24.10")


def with_node(domain: str, operator: str) -> onnx.ModelProto:
    made = model()
    made.opset_import.append(helper.make_opsetid(domain, 1))
    made.graph.node[0].attribute[0].g.node.append(helper.make_node(operator, ["x"], ["z"], name="extra", domain=domain))
    return made


@pytest.mark.parametrize(
    ("domain", "name", "refused"),
    [
        ("com.microsoft", "tensorrt", True),
        ("com.microsoft", "triton:24.10", False),
        ("my.own", "onnxruntime:1.23", True),
        ("", "tensorrt", False),
    ],
)
def test_operators_the_target_does_not_have_are_refused(domain, name, refused):
    made = with_node(domain, "Gelu" if domain else "Relu")
    if not refused:
        pin_to_target(made, name)
        return
    with pytest.raises(InputError, match=rf"node 'extra' \(Gelu of {domain}\) is not known to {name}"):
        pin_to_target(made, name)


def test_an_operator_that_the_file_defines_as_a_function_is_accepted():
    made = model()
    made.functions.append(function_with_a_branch())
    made.opset_import.append(helper.make_opsetid("local", 1))
    made.graph.node.append(helper.make_node("Choice", ["c"], ["z"], domain="local"))
    pin_to_target(made, "tensorrt")


@pytest.mark.parametrize("name", ["onnxruntime:1.24", "triton:26.08", "tensorrt"])
def test_bfloat16_is_refused_before_and_after_it_is_made(name):
    with pytest.raises(InputError, match="may not read bfloat16; use --fp16"):
        check_precision(name, "bf16")
    check_precision(name, "fp16")
    made = model()
    made.graph.initializer.append(helper.make_tensor("b", TensorProto.BFLOAT16, [1], [1.0]))
    with pytest.raises(InputError, match="may not read bfloat16"):
        pin_to_target(made, name)


def test_unknown_targets_list_the_nearest():
    with pytest.raises(InputError, match=r"triton:24\.10"):
        pin_to_target(model(), "triton:24.00")


@pytest.mark.parametrize(
    ("release", "runtime"),
    [("24.04", "1.17"), ("24.10", "1.19"), ("25.09", "1.23"), ("26.07", "1.27"), ("26.08", "1.28")],
)
def test_a_triton_release_reads_what_its_onnx_runtime_reads(release, runtime):
    assert TARGETS[f"triton:{release}"] == TARGETS[f"onnxruntime:{runtime}"]


def test_newer_targets_read_no_less_and_none_more_than_this_runtime():
    """The ONNX Runtime here is newer than all of the table: what it cannot read, none of them can."""
    runtimes = [target for name, target in TARGETS.items() if name.startswith("onnxruntime:")]
    assert runtimes == sorted(runtimes, key=lambda target: (target.opset, target.ir_version))
    for target in {*TARGETS.values()}:
        newest = model(opset=target.opset, ir_version=target.ir_version)
        onnxruntime.InferenceSession(newest.SerializeToString(), providers=["CPUExecutionProvider"])


def test_an_export_is_refused_before_the_slow_steps(tmp_path, monkeypatch):
    slow = []
    monkeypatch.setattr(exporting, "set_batch", lambda *_, **__: slow.append("batch"))
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:])
    path = tmp_path / "new.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    with pytest.raises(InputError, match="opset 22 is newer"):
        export(path, tmp_path / "out.onnx", batch=2, target="triton:24.10")
    with pytest.raises(InputError, match="may not read bfloat16"):
        export(path, tmp_path / "out.onnx", bf16=True, batch=2, target="triton:24.10")
    assert not slow
