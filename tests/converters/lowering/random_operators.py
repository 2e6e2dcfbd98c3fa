"""One function per operator family: each appends a node to a random graph, or nothing where no value fits."""

import numpy as np
from hypothesis import strategies as st


def elementwise(graph):
    x, shape = graph.value()
    since = {"HardSwish": 14, "Mish": 18, "Gelu": 20, "Celu": 12, "ThresholdedRelu": 10}
    names = ["Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Abs", "Neg", "Identity", "Elu", "Selu", "LeakyRelu"]
    names += ["HardSigmoid", *(name for name, opset in since.items() if graph.opset >= opset)]
    operator = graph.pick(*names)
    attributes = {}
    if operator in ("Elu", "LeakyRelu", "HardSigmoid", "Celu") and graph.flag():
        attributes["alpha"] = graph.pick(0.1, 0.3, 1.5)
    if operator == "Gelu" and graph.flag():
        attributes["approximate"] = "tanh"
    graph.node(operator, [x], shape, **attributes)


def clip(graph):
    x, shape = graph.value()
    if graph.opset < 11:
        graph.node("Clip", [x], shape, min=-1.0, max=graph.pick(0.5, 6.0))
    else:
        low = "" if graph.flag() else graph.constant(np.float32(-1))
        graph.node("Clip", [x, low, graph.constant(np.float32(0.5))], shape)


def binary(graph):
    x, shape = graph.value()
    operator = graph.pick("Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum", "Pow", "Div")
    others = [entry for entry in graph.values if _broadcast(shape, entry[1]) is not None]
    if operator in ("Max", "Min", "Mean", "Sum") and graph.opset < 8:
        others = [entry for entry in others if entry[1] == shape]
    if operator in ("Pow", "Div"):
        exponent = np.float32(graph.pick(1.5, 2.0, 3.0))
        graph.node(operator, [x, graph.constant(exponent)], shape) if operator == "Div" else _power(graph, x, shape)
        return
    if graph.flag() or operator in ("Max", "Min", "Mean", "Sum"):
        other, other_shape = graph.pick(*others)
    else:
        cut = graph.between(0, len(shape))
        other_shape = tuple(size if graph.flag() else 1 for size in shape[cut:])
        other_shape = tuple(1 if axis + cut == 0 else size for axis, size in enumerate(other_shape))
        other = graph.weight(*other_shape)
    pair = [x, other] if graph.flag() else [other, x]
    graph.node(operator, pair, _broadcast(shape, other_shape))


def _power(graph, x, shape):
    graph.node("Abs", [x], shape)
    graph.node("Pow", [graph.values[-1][0], graph.constant(np.float32(graph.pick(0.5, 2.0, 1.5)))], shape)


def _broadcast(a, b):
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        return None


def convolution(graph):
    found = graph.value(3, 4)
    if found is None:
        return
    x, shape = found
    axes, channels = len(shape) - 2, shape[1]
    group = graph.pick(*(g for g in (1, 2, channels) if channels % g == 0))
    outputs = group * graph.between(1, 2)
    kernel = [graph.between(1, min(3, size)) for size in shape[2:]]
    strides = [graph.between(1, 2) for _ in range(axes)]
    dilations = [
        graph.between(1, 2) if (size - 1) >= 2 * (k - 1) else 1 for k, size in zip(kernel, shape[2:], strict=True)
    ]
    attributes = {"group": group, "strides": strides, "kernel_shape": kernel}
    if graph.flag():
        mode = graph.pick("SAME_UPPER", "SAME_LOWER", "VALID")
        attributes["auto_pad"], dilations = mode, [1] * axes  # ONNX Runtime refuses SAME with dilations
        pads = [0] * (2 * axes)
    else:
        mode = ""
        attributes["pads"] = pads = [graph.between(0, 2) for _ in range(2 * axes)]
        attributes["dilations"] = dilations
    sizes = []
    for axis, size in enumerate(shape[2:]):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        padded = size + pads[axis] + pads[axis + axes] - reach
        sizes.append(-(-size // strides[axis]) if mode.startswith("SAME") else padded // strides[axis] + 1)
    inputs = [x, graph.weight(outputs, channels // group, *kernel), *([graph.weight(outputs)] if graph.flag() else [])]
    graph.node("Conv", inputs, (shape[0], outputs, *sizes), **attributes)


def pooling(graph):
    found = graph.value(3, 4)
    if found is None:
        return
    x, shape = found
    operator = graph.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    if operator.startswith("Global"):
        graph.node(operator, [x], (*shape[:2], *[1] * (len(shape) - 2)))
        return
    axes = len(shape) - 2
    kernel = [graph.between(1, min(3, size)) for size in shape[2:]]
    strides = [graph.between(1, 2) for _ in range(axes)]
    pads = [graph.between(0, k - 1) for k in kernel * 2]
    sizes = [(s + pads[a] + pads[a + axes] - kernel[a]) // strides[a] + 1 for a, s in enumerate(shape[2:])]
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    if operator == "AveragePool" and graph.flag():
        attributes["count_include_pad"] = 1
    graph.node(operator, [x], (*shape[:2], *sizes), **attributes)


def normalisation(graph):
    found = graph.value(3, 4)
    if found is None:
        return
    x, shape = found
    channels = shape[1]
    names = ["BatchNormalization", "InstanceNormalization", "PRelu"]
    names += ["LRN"] if len(shape) == 4 else []  # ONNX Runtime accepts no other rank
    names += ["MeanVarianceNormalization"] if len(shape) == 4 and graph.opset >= 9 else []
    names += ["LayerNormalization"] if graph.opset >= 17 else []
    names += ["GroupNormalization"] if graph.opset >= 21 else []
    operator = graph.pick(*names)
    if operator == "BatchNormalization":
        statistics = [
            graph.weight(channels),
            graph.weight(channels),
            graph.weight(channels),
            graph.weight(channels, low=0.5),
        ]
        graph.node(operator, [x, *statistics], shape, epsilon=graph.pick(1e-5, 1e-3))
    elif operator == "MeanVarianceNormalization":
        graph.node(operator, [x], shape)
    elif operator == "LRN":
        graph.node(operator, [x], shape, size=graph.pick(1, 3, 5), alpha=0.1)
    elif operator == "PRelu":
        slope = graph.pick((channels, *[1] * (len(shape) - 2)), (1,))
        graph.node(operator, [x, graph.weight(*slope)], shape)
    elif operator == "LayerNormalization":
        axis = graph.between(1, len(shape) - 1)
        weights = [graph.weight(*shape[axis:]) for _ in range(graph.between(1, 2))]
        graph.node(operator, [x, *weights], shape, axis=axis, epsilon=1e-3)
    else:
        extra = {}
        if operator == "GroupNormalization":
            extra["num_groups"] = graph.pick(*(g for g in (1, 2, channels) if channels % g == 0))
        graph.node(operator, [x, graph.weight(channels), graph.weight(channels)], shape, epsilon=1e-2, **extra)


def softmax(graph):
    x, shape = graph.value()
    axis = graph.between(-len(shape) if graph.opset >= 11 else 0, len(shape) - 1)
    graph.node(graph.pick("Softmax", "LogSoftmax"), [x], shape, axis=axis)


def reduction(graph):
    x, shape = graph.value(2, 3, 4)
    operator = graph.pick(
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp"
    )
    axes = sorted(graph.draw(st.sets(st.integers(1, len(shape) - 1), min_size=1)))
    keep = graph.between(0, 1)
    kept = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
    axes = [axis - len(shape) if graph.opset >= 11 and graph.flag() else axis for axis in axes]
    graph.with_axes(operator, x, axes, kept, 13 if operator == "ReduceSum" else 18, keepdims=keep)


def reshaping(graph):
    x, shape = graph.value()
    operator = graph.pick("Reshape", "Flatten", "Transpose", "Unsqueeze", "Squeeze")
    if operator == "Flatten":
        axis = graph.between(0, len(shape))
        graph.node(operator, [x], (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))), axis=axis)
    elif operator == "Transpose":
        order = graph.draw(st.permutations(range(len(shape))))
        graph.node(operator, [x], [shape[axis] for axis in order], perm=order)
    elif operator == "Unsqueeze" and len(shape) < 5:
        axis = graph.between(0, len(shape))
        graph.with_axes(operator, x, [axis], (*shape[:axis], 1, *shape[axis:]), 13)
    elif operator == "Squeeze" and 1 in shape[1:] and len(shape) > 1:
        axis = graph.pick(*(axis for axis, size in enumerate(shape) if size == 1 and axis))
        graph.with_axes(operator, x, [axis], shape[:axis] + shape[axis + 1 :], 13)
    else:
        cut = graph.between(1, len(shape))
        target = [0] * cut + ([-1] if cut < len(shape) or graph.flag() else [])
        tail = int(np.prod(shape[cut:], dtype=np.int64))
        result = (*shape[:cut], *([tail] if len(target) > cut else []))
        graph.node("Reshape", [x, graph.numbers(*target)], result)


def joining(graph):
    x, shape = graph.value(2, 3, 4)
    axis = graph.between(0 if graph.opset < 11 else -len(shape), len(shape) - 1)

    def same(other):
        return all(a == b for at, (a, b) in enumerate(zip(shape, other, strict=True)) if at != axis % len(shape))

    fitting = [entry for entry in graph.values if len(entry[1]) == len(shape) and same(entry[1])]
    chosen = [graph.pick(*fitting) for _ in range(graph.between(1, 2))]
    sizes = list(shape)
    sizes[axis] += sum(entry[1][axis] for entry in chosen)
    if max(sizes) <= 64:
        graph.node("Concat", [x, *(entry[0] for entry in chosen)], sizes, axis=axis)


def selecting(graph):
    x, shape = graph.value(2, 3, 4)
    axis = graph.between(1, len(shape) - 1)
    size = shape[axis]
    if graph.flag():
        indices = [graph.between(-size if graph.opset >= 11 else 0, size - 1) for _ in range(graph.between(1, 3))]
        scalar = len(indices) == 1 and graph.flag() and len(shape) > 2
        name = graph.constant(np.array(indices[0] if scalar else indices, np.int64))
        middle = () if scalar else (len(indices),)
        graph.node("Gather", [x, name], (*shape[:axis], *middle, *shape[axis + 1 :]), axis=axis)
        return
    start = graph.between(0, size - 1)
    stop = graph.between(start + 1, size + 2)
    step = graph.between(1, 2) if graph.opset >= 10 else 1
    sizes = list(shape)
    sizes[axis] = len(range(*slice(start, stop, step).indices(size)))
    start = start - size if graph.flag() else start
    if graph.opset < 10:
        graph.node("Slice", [x], sizes, starts=[start], ends=[stop], axes=[axis])
    else:
        graph.node("Slice", [x, *(graph.numbers(n) for n in (start, stop, axis, step))], sizes)


def padding(graph):
    x, shape = graph.value(3, 4)
    before = [0, *(graph.between(-1 if size > 2 else 0, 2) for size in shape[1:])]
    after = [0, *(graph.between(0, 2) for _ in shape[1:])]
    mode = graph.pick("constant", "reflect", "edge")
    if mode == "reflect":
        before = [min(max(pad, 0), size - 1) for pad, size in zip(before, shape, strict=True)]
        after = [min(pad, size - 1) for pad, size in zip(after, shape, strict=True)]
    elif mode == "edge":
        before = [max(pad, 0) for pad in before]
    sizes = [a + size + b for a, size, b in zip(before, shape, after, strict=True)]
    if graph.opset < 11:
        graph.node("Pad", [x], sizes, pads=[*before, *after], mode=mode)
    else:
        graph.node("Pad", [x, graph.numbers(*before, *after)], sizes, mode=mode)


def resizing(graph):
    found = graph.value(4)
    if found is None:
        return
    x, shape = found
    mode = graph.pick("nearest", "linear")
    scales = [graph.pick(1.0, 2.0, 3.0) for _ in range(2)]
    sizes = (*shape[:2], *(int(size * scale) for size, scale in zip(shape[2:], scales, strict=True)))
    if max(sizes) > 40:
        return
    factors = np.array([1, 1, *scales], np.float32)
    if graph.opset < 9:
        graph.node("Upsample", [x], sizes, mode=mode, scales=[float(f) for f in factors])
    elif graph.opset < 11:
        graph.node("Upsample" if graph.opset == 9 else "Resize", [x, graph.constant(factors)], sizes, mode=mode)
    else:
        coordinates = graph.pick("half_pixel", "asymmetric", "align_corners")
        rounding = {"nearest_mode": graph.pick("floor", "round_prefer_floor")} if mode == "nearest" else {}
        attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, **rounding}
        none = "" if graph.opset >= 13 else graph.constant(np.zeros(0, np.float32))
        if graph.flag():
            graph.node("Resize", [x, none, graph.constant(factors)], sizes, **attributes)
        else:
            empty = "" if graph.opset >= 13 else graph.constant(np.zeros(0, np.float32))
            graph.node("Resize", [x, none, empty, graph.numbers(*sizes)], sizes, **attributes)


def products(graph):
    x, shape = graph.value(2, 3, 4)
    width, outputs = shape[-1], graph.between(1, 4)
    if len(shape) == 2 and graph.flag():
        transposed = graph.between(0, 1)
        weight = graph.weight(*((outputs, width) if transposed else (width, outputs)))
        needed = graph.opset < 11 or graph.flag()
        bias = [graph.weight(*graph.pick((outputs,), (1, outputs), (1,)))] if needed else []
        scales = {"alpha": graph.pick(1.0, 0.5), "beta": graph.pick(1.0, 2.0)}
        graph.node("Gemm", [x, weight, *bias], (shape[0], outputs), transB=transposed, **scales)
    else:
        graph.node("MatMul", [x, graph.weight(width, outputs)], (*shape[:-1], outputs))


def rearranging(graph):
    found = graph.value(4)
    if found is None:
        return
    x, (n, c, h, w) = found
    if c % 4 == 0:
        mode = {"mode": graph.pick("DCR", "CRD")} if graph.opset >= 11 else {}
        graph.node("DepthToSpace", [x], (n, c // 4, 2 * h, 2 * w), blocksize=2, **mode)
    elif h % 2 == 0 and w % 2 == 0:
        graph.node("SpaceToDepth", [x], (n, 4 * c, h // 2, w // 2), blocksize=2)


FAMILIES = (
    *(elementwise, clip, binary, convolution, pooling, normalisation, softmax, reduction, reshaping, joining),
    *(selecting, padding, resizing, products, rearranging),
)
