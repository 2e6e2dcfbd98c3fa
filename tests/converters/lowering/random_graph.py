"""A random ONNX graph that grows node by node; Hypothesis draws every choice."""

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

NEWEST = onnx.defs.onnx_opset_version()


IMAGES = 2


class Graph:
    """A growing ONNX graph; every value's name and shape (at a batch of two) is known."""

    def __init__(self, draw):
        self.draw = draw
        self.opset = draw(st.integers(7, NEWEST), label="opset")
        self.nodes, self.weights = [], {}
        self.values = []
        self.random = np.random.default_rng(draw(st.integers(0, 2**16), label="seed"))

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def between(self, low, high):
        return self.draw(st.integers(low, high))

    def flag(self):
        return self.draw(st.booleans())

    def value(self, *ranks):
        """A value of one of these ranks (any if none is given), preferably a late one; None if there is none."""
        fitting = [entry for entry in self.values if not ranks or len(entry[1]) in ranks]
        return self.pick(*fitting, *fitting[-2:], fitting[-1]) if fitting else None

    def weight(self, *shape, low=None):
        """A float weight; not below `low`."""
        array = self.random.standard_normal(shape).astype(np.float32)
        array = array if low is None else np.abs(array) + np.float32(low)
        return self.constant(array)

    def constant(self, array):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def numbers(self, *items):
        return self.constant(np.array(items, np.int64))

    def node(self, operator, inputs, shape, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        self.values.append((name, tuple(int(size) for size in shape)))
        if min(self.values[-1][1], default=1) < 1:  # an empty tensor, which no real graph has
            self.nodes.pop()
            self.values.pop()

    def with_axes(self, operator, x, axes, shape, since, **attributes):
        """`axes` as an attribute before opset `since`, as an input from there on."""
        if self.opset < since:
            self.node(operator, [x], shape, axes=list(axes), **attributes)
        else:
            self.node(operator, [x, self.numbers(*axes)], shape, **attributes)
