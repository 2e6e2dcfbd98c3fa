"""How far two correct runs of one 16-bit model may differ.

Every node rounds its result to the format, and a different order of sums, batch or placing of Casts makes it round
another way. Roundings behave as independent errors: over `n` of them the error grows as sqrt(n) * u and not as n * u,
where u = eps / 2 is the unit roundoff (Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis",
SIAM J. Sci. Comput. 41(5), 2019, doi:10.1137/18M1226312). Each of the two runs has that error, so together
2 * sqrt(n) * u = sqrt(n) * eps. `n` is the number of rounded values on the longest way through the graph.
"""

from __future__ import annotations

import math

import onnx

__all__ = ["EPSILON", "half_bound"]

EPSILON = {onnx.TensorProto.FLOAT16: 2.0**-10, onnx.TensorProto.BFLOAT16: 2.0**-7}
"""Distance from 1 to the next number of the format."""


def half_bound(model: onnx.ModelProto) -> float | None:
    """Largest relative error (see `Parity.max_rel`) between two runs; None for a model that rounds nothing to 16 bits.

    A model with both formats has the bound of the coarser one.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    epsilon = max((EPSILON[kind] for kind in types.values() if kind in EPSILON), default=None)
    if epsilon is None:
        return None
    depth: dict[str, int] = {}
    for node in inferred.graph.node:
        before = max((depth.get(name, 0) for name in node.input), default=0)
        for name in node.output:
            depth[name] = before + (types.get(name) in EPSILON)
    return math.sqrt(max(1, *depth.values(), 1)) * epsilon
