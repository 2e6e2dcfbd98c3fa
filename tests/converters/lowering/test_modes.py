"""A converted module can be traced, exported, compiled, scripted, copied, cast, and trained with autocast and DDP."""

import copy
import os
import warnings

import onnx
import pytest
import torch
import torch.distributed as dist

from rtool.converters import onnx_to_torch
from rtool.converters.records.record import require_record

CASES = [("cnn", "ts", 11), ("cnn", "dy", 20), ("vit", "ts", 17), ("vit", "dy", 23)]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def module(request, exported):
    return onnx_to_torch(exported(*request.param)[1])


@pytest.fixture
def batches(images):
    return torch.from_numpy(images(2)), torch.from_numpy(images(5))


def same(got, expected):
    return (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_tracing_exporting_and_compiling_keep_the_batch_dynamic(module, batches):
    two, five = batches
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = module(five)
        assert same(torch.jit.trace(module, two)(five), expected)
        program = torch.export.export(module, (two,), dynamic_shapes=({0: torch.export.Dim("N")},))
        assert same(program.module()(five), expected)
        assert same(torch.compile(module, fullgraph=True, backend="aot_eager")(five), expected)
        assert same(torch.jit.script(module)(five), expected)


def test_copies_share_nothing_and_channels_last_changes_nothing(module, batches):
    two, _ = batches
    twin = copy.deepcopy(module)
    with torch.no_grad():
        expected = module(two)
        assert same(twin.to(memory_format=torch.channels_last)(two.to(memory_format=torch.channels_last)), expected)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(module(two), expected)
    require_record(twin).nodes.clear()
    assert require_record(module).nodes


def test_bfloat16_autocast_trains(module, batches):
    module.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(batches[0]).float().pow(2).mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_distributed_data_parallel_reduces_every_parameter(module, batches, tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(module.train())
        wrapped(batches[0]).pow(2).mean().backward()
        del wrapped  # before its process group, for whose threads its destructor may wait
    finally:
        dist.destroy_process_group()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("operator", ["RNN", "GRU", "LSTM", "BitCast"])
def test_recurrent_layers_and_bit_casts_trace(operator):
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}.get(operator, 0)
    weights = {"w": torch.randn(1, 4 * gates, 3), "r": torch.randn(1, 4 * gates, 4)} if gates else {}
    attributes = {"hidden_size": 4} if gates else {"to": onnx.TensorProto.INT32}
    node = onnx.helper.make_node(operator, ["x", *weights], ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", "N", 3])],
        [onnx.helper.make_value_info("y", onnx.TypeProto())],
        [onnx.numpy_helper.from_array(array.numpy(), name) for name, array in weights.items()],
    )
    module = onnx_to_torch(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 26)], ir_version=10)
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, torch.randn(5, 2, 3))
        x = torch.randn(5, 2, 3)
        assert torch.equal(traced(x), module(x))
