"""The window of a convolution or pooling: kernel, strides, dilations and paddings, with `auto_pad` resolved."""

from __future__ import annotations

from dataclasses import dataclass

from ..operation import Op

__all__ = ["Window", "window_of"]


@dataclass(frozen=True)
class Window:
    """One list entry per spatial axis; `same` is "upper" or "lower" when paddings depend on the size at run time."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    begin: list[int]
    end: list[int]
    same: str = ""

    @property
    def is_symmetric(self) -> bool:
        """Whether begin and end paddings are equal, so that torch's `padding` can be used."""
        return not self.same and self.begin == self.end

    @property
    def torch_pads(self) -> list[int]:
        """The paddings in the order of `F.pad`: last axis first, begin before end."""
        pairs = list(zip(self.begin, self.end, strict=True))
        return [number for pair in reversed(pairs) for number in pair]


def window_of(op: Op, kernel: list[int]) -> Window:
    """The window of a node whose kernel has these sizes; refused where its attributes contradict each other."""
    axes = len(kernel)
    stated = op.attr_ints("kernel_shape", kernel)
    if stated != kernel:
        raise op.refuse(f"kernel_shape {stated} contradicts its weight, whose kernel is {kernel}; re-export it")
    stride = op.attr_ints("strides", [1] * axes) or [1] * axes
    dilation = op.attr_ints("dilations", [1] * axes) or [1] * axes
    if len(stride) != axes or len(dilation) != axes:
        raise op.refuse(f"kernel {kernel} needs {axes} strides and dilations, got {stride} and {dilation}")
    if min(*stride, *dilation, *kernel) <= 0:
        raise op.refuse(f"kernel {kernel}, strides {stride} and dilations {dilation} must be positive")
    mode = op.attr_string("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return _same(op, kernel, stride, dilation, upper=mode == "SAME_UPPER")
    pads = [0] * (2 * axes) if mode == "VALID" else op.attr_ints("pads", [0] * (2 * axes)) or [0] * (2 * axes)
    if mode not in ("NOTSET", "VALID", ""):
        raise op.refuse(f"auto_pad={mode} is unknown; re-export with explicit pads")
    if len(pads) != 2 * axes:
        raise op.refuse(f"kernel {kernel} needs {2 * axes} pads, got {pads}")
    if min(pads) < 0:
        raise op.refuse(f"pads {pads} must not be negative; crop with Slice before it, or re-export it")
    return Window(kernel, stride, dilation, pads[:axes], pads[axes:])


def _same(op: Op, kernel: list[int], stride: list[int], dilation: list[int], *, upper: bool) -> Window:
    shape = op.shape(0)
    sizes = None if shape is None else shape[2:]
    begin, end = [], []
    for axis, size in enumerate(sizes or [None] * len(kernel)):
        if not isinstance(size, int):
            return Window(kernel, stride, dilation, [], [], "upper" if upper else "lower")
        outputs = -(-size // stride[axis])
        total = max((outputs - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size, 0)
        small = total // 2
        begin.append(small if upper else total - small)
        end.append(total - small if upper else small)
    return Window(kernel, stride, dilation, begin, end)
