"""Which outputs of a graph are probabilities: what a Sigmoid or a Softmax gives, rearranged at most."""

from __future__ import annotations

import onnx

__all__ = ["probability_outputs"]

_GIVES = frozenset({"Sigmoid", "Softmax"})
_REARRANGES = frozenset(
    {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


def probability_outputs(graph: onnx.GraphProto) -> tuple[int, ...]:
    """Positions of the outputs that are 0 to 1 because a Sigmoid or a Softmax made every one of their elements."""
    producers = {name: node for node in graph.node for name in node.output if name}
    return tuple(index for index, value in enumerate(graph.output) if _is_probability(value.name, producers))


def _is_probability(name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    waiting, seen = [name], set[str]()
    while waiting:
        current = waiting.pop()
        node = producers.get(current)
        if node is None or node.domain not in ("", "ai.onnx"):
            return False
        if current in seen or node.op_type in _GIVES:
            continue
        seen.add(current)
        if node.op_type == "Concat":
            waiting += node.input
        elif node.op_type in _REARRANGES:
            waiting.append(node.input[0])
        else:
            return False
    return True
