"""`Op`: one ONNX node while it is lowered; a lowering function reads its inputs from it and builds fx nodes with it.

- Read: `op.x(i)` a tensor, `op.constant(i)` an array if known at conversion, `op.integers(i)` numbers (ints or fx
  nodes), `op.shape(i)`, `op.rank(i)`, `op.dtype(i)`; attributes: `op.attr_int`, `op.attr_ints`, `op.attr_float`, ...
- Build: `op.call(function, ...)`, `op.method("name", tensor, ...)`, `op.module(nn.Conv2d, options, x, weights=...)`.
- Refuse: `raise op.refuse("what is not supported; what to do")`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx, nn

from ..passes.constant_folding import FIXED_KEY, LITERAL_KEY, source_of_constant
from ..records.generated_names import is_generated
from ..records.node_facts import facts_of, set_facts
from .graph_builder import GraphBuilder, Weight
from .values import Dim, Integers, dims_of, torch_dtype

__all__ = ["Lowered", "Op", "RefusedError"]

Result = fx.Node | Integers | None
Lowered = Result | Sequence[Result]
"""What a lowering function returns: one entry per output; None for an output that nothing uses."""

Environment = dict[ir.Value, fx.Node | Integers]

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class RefusedError(Exception):
    """A node cannot be lowered exactly; `lower` collects these and reports them together."""


class Op:
    """One node, its opset and what is known about its inputs."""

    def __init__(
        self,
        node: ir.Node,
        opset: int,
        builder: GraphBuilder,
        environment: Environment,
        lower_node: Callable[[ir.Node], None] | None = None,
    ) -> None:
        self.node = node
        self.opset = opset
        self.builder = builder
        self.environment = environment
        self._lower_node = lower_node

    @property
    def type(self) -> str:
        """The operator's name."""
        return self.node.op_type

    def lower_node(self, node: ir.Node) -> None:
        """Lower a node of a subgraph (a branch, the body of a loop) before this one."""
        if self._lower_node is None:
            raise self.refuse("its subgraph cannot be lowered here")
        self._lower_node(node)

    def refuse(self, reason: str) -> RefusedError:
        """The exception to raise when this node cannot be lowered exactly."""
        return RefusedError(reason)

    # -- attributes -------------------------------------------------------------------------------------------

    def _attribute(self, name: str) -> Any:
        attribute = self.node.attributes.get(name)
        return None if attribute is None else attribute.value

    def attr_int(self, name: str, default: int | None = None) -> int:
        """An integer attribute; refused when it is missing and there is no default."""
        value = self._attribute(name)
        if value is None:
            if default is None:
                raise self.refuse(f"required attribute {name} is missing; re-export the model")
            return default
        return int(value)

    def attr_float(self, name: str, default: float) -> float:
        """A float attribute, as the shortest decimal that rounds to the same float32."""
        value = self._attribute(name)
        return default if value is None else float(str(np.float32(value)))

    def attr_string(self, name: str, default: str = "") -> str:
        """A string attribute."""
        value = self._attribute(name)
        return default if value is None else str(value)

    def attr_ints(self, name: str, default: Sequence[int] | None = None) -> list[int] | None:
        """A list of integers."""
        value = self._attribute(name)
        if value is None:
            return None if default is None else list(default)
        return [int(item) for item in value]

    def attr_floats(self, name: str) -> list[float] | None:
        """A list of floats."""
        value = self._attribute(name)
        return None if value is None else [float(item) for item in value]

    def has_attribute(self, name: str) -> bool:
        """Whether the node states this attribute."""
        return name in self.node.attributes

    def raw_attribute(self, name: str) -> Any:
        """Any attribute in its onnx-ir form (tensors, graphs); None when missing."""
        return self._attribute(name)

    # -- inputs -----------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of inputs, without trailing absent ones."""
        return max((i + 1 for i, value in enumerate(self.node.inputs) if value is not None), default=0)

    def has(self, index: int) -> bool:
        """Whether input `index` is present."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def value(self, index: int) -> ir.Value:
        """Input `index` as an IR value; refused when absent."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            raise self.refuse(f"input {index} is missing; re-export the model")
        return value

    def shape(self, index: int) -> tuple[Dim, ...] | None:
        """The inferred shape of input `index`; None when its rank is unknown."""
        dims = dims_of(self.value(index))
        if dims is None:
            return None
        return tuple(self.builder.symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in dims)

    def rank(self, index: int) -> int:
        """The rank of input `index`; refused when unknown."""
        shape = self.shape(index)
        if shape is None:
            raise self.refuse(
                f"the rank of input '{self.value(index).name}' is unknown; give the graph inputs their shapes"
            )
        return len(shape)

    def dtype(self, index: int) -> ir.DataType:
        """The dtype of input `index`; refused when unknown."""
        value = self.value(index)
        dtype = value.const_value.dtype if value.const_value is not None else value.dtype
        if dtype is None:
            raise self.refuse(f"the element type of input '{value.name}' is unknown; declare the graph inputs")
        return dtype

    def is_float(self, index: int) -> bool:
        """Whether the dtype of input `index` is a float of 16 bits or more."""
        return self.dtype(index) in _FLOATS

    def constant(self, index: int) -> NDArray[Any] | None:
        """Input `index` as an array when it is known at conversion; else, or when absent, None."""
        if not self.has(index):
            return None
        value = self.value(index)
        if value.const_value is not None:
            return np.asarray(value.const_value.numpy())
        known = self.environment.get(value)
        return known.static if isinstance(known, Integers) else None

    def is_weight(self, index: int) -> bool:
        """Whether input `index` is a constant of the file, not computed at run time."""
        return self.has(index) and self.value(index).const_value is not None

    def has_bias(self, index: int) -> bool:
        """Whether input `index` is present and not just zeros that an exporter wrote for "no bias"."""
        if not self.has(index):
            return False
        value = self.value(index)
        if value.const_value is None or not value.meta.get(LITERAL_KEY):
            return True
        return bool(np.asarray(value.const_value.numpy()).any())

    def weight(self, index: int, transform: Any = "identity", shape: Sequence[int] | None = None) -> Weight:
        """Input `index` as a weight of a module, stored after `transform` and in `shape` if given."""
        return Weight(self.value(index), transform, shape=shape)

    def integers(self, index: int) -> list[int | fx.Node] | fx.Node:
        """The numbers in integer input `index`: ints where known at conversion, else fx nodes.

        A single fx node instead of a list stands for a Python list at run time, of unknown length.
        """
        value = self.value(index)
        known = self.environment.get(value)
        if isinstance(known, Integers):
            return list(known.items)
        if value.const_value is not None:
            return [int(item) for item in np.asarray(value.const_value.numpy()).reshape(-1)]
        assert isinstance(known, fx.Node)
        shape = dims_of(value)
        numbers = self.method("tolist", known)
        if shape == ():
            return [numbers]
        if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
            return numbers
        return [self.call(operator.getitem, numbers, position) for position in range(shape[0])]

    def known(self, index: int) -> Integers | None:
        """Input `index` as known numbers, if it is a known integer tensor of rank 0 or 1 (64 elements at most)."""
        value = self.value(index)
        known = self.environment.get(value)
        if isinstance(known, Integers):
            return known
        if value.const_value is None or value.const_value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        array = np.asarray(value.const_value.numpy())
        if array.ndim > 1 or array.size > 64:
            return None
        return Integers(tuple(int(item) for item in array.reshape(-1)), scalar=array.ndim == 0)

    def x(self, index: int) -> fx.Node:
        """Input `index` as a tensor at run time; a float constant becomes a parameter, other constants buffers."""
        value = self.value(index)
        known = self.environment.get(value)
        if isinstance(known, fx.Node):
            return known
        if isinstance(known, Integers):
            return self._integer_tensor(known)
        if torch_dtype(self.dtype(index)) is None:
            raise self.refuse(f"torch has no element type for {self.dtype(index).name}")
        trainable = self.is_float(index) and not value.meta.get(FIXED_KEY)
        return self.builder.attribute(Weight(value), self.node, trainable=trainable)

    def _integer_tensor(self, known: Integers) -> fx.Node:
        items: Any = known.items[0] if known.scalar else list(known.items)
        dtype = torch.bool if known.boolean else torch.int64
        return self.call(torch.tensor, items, dtype=dtype, **self.builder.device())

    def number(self, index: int) -> float | int | bool | None:
        """Input `index` as a Python number if it is one known value that is not trained, else None."""
        if not self.has(index):
            return None
        value = self.value(index)
        array = self.constant(index)
        if array is None or array.size != 1 or array.dtype.kind not in "fiub":
            return None
        if value.const_value is not None and array.dtype.kind == "f" and not self._is_literal(value):
            return None
        item = array.reshape(-1)[0]
        return float(str(item)) if array.dtype == np.float32 else item.item()

    @staticmethod
    def _is_literal(value: ir.Value) -> bool:
        """Whether a float was written into the model's code (a Constant node, or a generated name)."""
        name = source_of_constant(value).value
        return bool(value.meta.get(LITERAL_KEY)) or is_generated(name)

    def operand(self, index: int) -> Any:
        """Input `index` of a binary operator: a Python number for literals of float32 or int64, else a tensor."""
        if self.dtype(index) in (ir.DataType.FLOAT, ir.DataType.INT64) and not self._raises_rank(index):
            number = self.number(index)
            if number is not None:
                return number
        return self.x(index)

    def _raises_rank(self, index: int) -> bool:
        """Whether this operand gives the result more axes than the other operand has."""
        shape, other = self.shape(index), self.shape(1 - index)
        return bool(shape) and (other is None or shape is None or len(shape) > len(other))

    # -- outputs ----------------------------------------------------------------------------------------------

    def uses_output(self, index: int) -> bool:
        """Whether output `index` is read by a node or is a graph output."""
        outputs = self.node.outputs
        if index >= len(outputs) or not outputs[index].name:
            return False
        return bool(outputs[index].uses()) or outputs[index].is_graph_output()

    def output_shape(self, index: int = 0) -> tuple[Dim, ...] | None:
        """The inferred shape of output `index`."""
        return dims_of(self.node.outputs[index])

    def set_output_shape(self, dims: Sequence[Dim], index: int = 0) -> None:
        """Set the shape of an output where inference left it unknown, and record which of its symbols are equal."""
        inferred = dims_of(self.node.outputs[index])
        if inferred is None:
            self.node.outputs[index].shape = ir.Shape(list(dims))
            return
        for symbol, dim in zip(inferred, dims, strict=False):
            if isinstance(symbol, str) and isinstance(dim, str) and symbol != dim:
                self.builder.symbols.setdefault(symbol, dim)

    def output_like_input(self) -> None:
        """Give output 0 the shape and dtype of input 0, where onnx infers none."""
        shape, output = dims_of(self.value(0)), self.node.outputs[0]
        if shape is not None and output.shape is None:
            output.shape = ir.Shape(list(shape))
        if output.dtype is None and self.value(0).dtype is not None:
            output.dtype = self.dtype(0)

    def output_dtype(self, index: int = 0) -> ir.DataType | None:
        """The inferred dtype of output `index`."""
        return self.node.outputs[index].dtype

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call of a function to the fx graph."""
        return self.builder.call("call_function", function, args, kwargs, self.node)

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call of a tensor method; the tensor is the first argument."""
        return self.builder.call("call_method", name, args, kwargs, self.node)

    def module(
        self,
        factory: Callable[..., nn.Module],
        options: Mapping[str, Any],
        *args: fx.Node,
        weights: Mapping[str, Weight] | None = None,
        buffers: Mapping[str, Weight] | None = None,
    ) -> fx.Node:
        """Add a module `factory(**options)` with these weights and call it; `factory` must accept `device=`."""
        path = self.builder.module(factory, options, weights or {}, buffers or {}, self.node)
        return self.builder.call("call_module", path, args, {}, self.node)

    def size(self, index: int, dim: int) -> int | fx.Node:
        """The size of axis `dim` of input `index`: an int when it is fixed, else an fx node."""
        shape = self.shape(index)
        known = None if shape is None else shape[dim]
        if isinstance(known, int):
            return known
        node = self.method("size", self.x(index), dim)
        if known is not None:
            set_facts(node, replace(facts_of(node), symbol=known))
        return node
