"""Removes Identity nodes, so that what reads an alias reads the value itself.

onnx-ir's IdentityEliminationPass also removes those that make a graph output, and raises an error for a branch that
returns a value from outside of it; here every Identity that makes an output of any graph stays.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["drop_identities"]


def drop_identities(model: ir.Model) -> None:
    """Remove the Identity nodes of the main graph and of all subgraphs, in place, apart from those behind outputs."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in list(graph):
            if node.op_type != "Identity" or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
                continue
            if not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(node.inputs[0])
                graph.remove(node, safe=True)
