"""Any small graph of any opset is lowered to what ONNX Runtime computes (ONNX's own evaluator where it is too new).

Hypothesis draws a graph node by node: each step picks an operator, values made before it that fit, attributes and
weights, in the form the operator has at the opset drawn. What the converter makes of it must have the shapes and the
numbers of the oracle; refusing is not allowed, as no operator drawn here lacks a lowering.
"""

import numpy as np
import onnxruntime
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtool.converters import assert_parity, onnx_to_torch

from .random_graph import IMAGES, Graph
from .random_operators import FAMILIES, joining, padding, products, reduction, selecting

ORT_NEWEST = 24


REASON = "float32 through some ten nodes, summed in another order"


def build(draw):
    """A model, its inputs, and whether its batch is dynamic."""
    graph = Graph(draw)
    rank = graph.pick(4, 4, 4, 3, 2)
    shape = (IMAGES, graph.pick(2, 4, 6), *(graph.between(3, 7) for _ in range(rank - 2)))
    graph.values.append(("x", shape))
    for _ in range(graph.between(1, 8)):
        ranks = {len(entry[1]) for entry in graph.values}
        family = graph.pick(*FAMILIES)
        if family in (reduction, joining, selecting, products) and not ranks & {2, 3, 4}:
            continue
        if family is padding and not ranks & {3, 4}:
            continue
        family(graph)
    if not graph.nodes:
        graph.node("Relu", ["x"], shape)
    results = [
        graph.values[-1][0],
        *({graph.pick(*graph.values[1:])[0]} - {graph.values[-1][0]} if graph.flag() else ()),
    ]
    stated = ["N", *shape[1:]] if graph.flag() else list(shape)
    proto = helper.make_graph(
        graph.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, stated)],
        [helper.make_value_info(name, helper.make_tensor_type_proto(TensorProto.FLOAT, None)) for name in results],
        [numpy_helper.from_array(array, name) for name, array in graph.weights.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=10)
    return model, graph.random.standard_normal(shape).astype(np.float32)


def oracle(model, x):
    if model.opset_import[0].version > ORT_NEWEST:
        return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, {"x": x})]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # ONNX Runtime's graph optimisations are not tested here.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_graph_of_any_opset_gives_the_oracles_numbers(data):
    model, x = build(data.draw)
    expected = oracle(model, x)
    module = onnx_to_torch(model)
    with torch.no_grad():
        results = module(torch.from_numpy(x))
    results = results if isinstance(results, tuple) else (results,)
    got = [result.numpy() for result in results]
    assert [array.shape for array in got] == [array.shape for array in expected]
    assert_parity(expected, got, max_rel=1e-4, reason=REASON)
