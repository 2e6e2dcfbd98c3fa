"""Recurrent layers in ONNX's layout: torch's kernels where they compute the same, else one step after the other.

Shapes: T steps, B batch, I inputs, H hidden, D directions (1 or 2), G gates (RNN 1, GRU 3, LSTM 4). `w` is
[D, G * H, I], `r` [D, G * H, H], `b` [D, 2 * G * H]. ONNX's gate order is i o f c and z r h, torch's i f c o and r z n.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["native_gru", "native_lstm", "native_rnn", "recur"]

Activation = tuple[str, float, float]


def _in_order(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The gate blocks of axis 0 in another order."""
    blocks = tensor.chunk(len(order), 0)
    return torch.cat([blocks[gate] for gate in order], 0)


def _flat_weights(w: Tensor, r: Tensor, b: Tensor | None, order: Sequence[int]) -> list[Tensor]:
    weights = []
    biases = [None] * len(w) if b is None else list(b.unbind(0))
    for w_one, r_one, b_one in zip(w.unbind(0), r.unbind(0), biases):  # noqa: B905
        weights += [_in_order(w_one, order), _in_order(r_one, order)]
        if b_one is not None:
            weights += [_in_order(half, order) for half in b_one.chunk(2, 0)]
    return weights


def _start(x: Tensor, r: Tensor, state: Tensor | None) -> Tensor:
    """The state [D, B, H] that a recurrence starts from.

    A given state is viewed as what it has to be, which raises where it is for another batch: torch's LSTM kernel on the
    CPU does not check that and writes past the end of its memory. A view also checks in traced and exported programs.
    """
    shape = (r.size(0), x.size(1), r.size(2))
    return torch.zeros(shape, dtype=x.dtype, device=x.device) if state is None else state.view(shape)


def _per_direction(y: Tensor, directions: int) -> Tensor:
    """[T, B, D * H] to [T, D, B, H]."""
    return y.reshape(y.size(0), y.size(1), directions, y.size(2) // directions).transpose(1, 2)


def native_lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, h: Tensor | None, c: Tensor | None, directions: int
) -> tuple[Tensor, Tensor, Tensor]:
    """LSTM with the usual activations over sequences of full length."""
    x = x.view(x.size(0), x.size(1), w.size(2))  # the kernel does not check this either, see `_start`
    weights = _flat_weights(w, r, b, (0, 2, 3, 1))
    states = [_start(x, r, h), _start(x, r, c)]
    y, h, c = torch.lstm(x, states, weights, b is not None, 1, 0.0, False, directions == 2, False)
    return _per_direction(y, directions), h, c


def native_gru(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, h: Tensor | None, directions: int
) -> tuple[Tensor, Tensor]:
    """GRU with the usual activations and reset after the product, over sequences of full length."""
    weights = _flat_weights(w, r, b, (1, 0, 2))
    y, h = torch.gru(x, _start(x, r, h), weights, b is not None, 1, 0.0, False, directions == 2, False)
    return _per_direction(y, directions), h


def native_rnn(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, h: Tensor | None, directions: int, relu: bool
) -> tuple[Tensor, Tensor]:
    """Plain recurrence with tanh or ReLU, over sequences of full length."""
    weights = _flat_weights(w, r, b, (0,))
    layer = torch.rnn_relu if relu else torch.rnn_tanh
    y, h = layer(x, _start(x, r, h), weights, b is not None, 1, 0.0, False, directions == 2, False)
    return _per_direction(y, directions), h


def _activate(x: Tensor, activation: Activation) -> Tensor:
    name, alpha, beta = activation
    if name == "Sigmoid":
        return torch.sigmoid(x)
    if name == "Tanh":
        return torch.tanh(x)
    if name == "Relu":
        return torch.relu(x)
    if name == "Affine":
        return alpha * x + beta
    if name == "LeakyRelu":
        return F.leaky_relu(x, alpha)
    if name == "ThresholdedRelu":
        return F.threshold(x, alpha, 0.0)
    if name == "ScaledTanh":
        return alpha * torch.tanh(beta * x)
    if name == "HardSigmoid":
        return torch.clamp(alpha * x + beta, 0.0, 1.0)
    if name == "Elu":
        return F.elu(x, alpha)
    if name == "Softsign":
        return F.softsign(x)
    return F.softplus(x)


def _bounded(x: Tensor, clip: float) -> Tensor:
    return x.clamp(-clip, clip) if clip > 0 else x


def _lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    r: Tensor,
    b: Tensor,
    p: Tensor | None,
    forget: bool,
    act: list[Activation],
    clip: float,
) -> tuple[Tensor, Tensor]:
    i, o, f, g = (x + h @ r.t() + b).chunk(4, -1)
    peep_i, peep_o, peep_f = (0.0, 0.0, 0.0) if p is None else p.chunk(3, -1)
    i = _activate(_bounded(i + peep_i * c, clip), act[0])
    f = 1 - i if forget else _activate(_bounded(f + peep_f * c, clip), act[0])
    c = f * c + i * _activate(_bounded(g, clip), act[1])
    o = _activate(_bounded(o + peep_o * c, clip), act[0])
    return o * _activate(c, act[2]), c


def _gru_step(
    x: Tensor, h: Tensor, r: Tensor, w_bias: Tensor, r_bias: Tensor, after: bool, act: list[Activation], clip: float
) -> Tensor:
    xz, xr, xh = (x + w_bias).chunk(3, -1)
    rz, rr, rh = r.chunk(3, 0)
    bz, br, bh = r_bias.chunk(3, -1)
    z = _activate(_bounded(xz + h @ rz.t() + bz, clip), act[0])
    reset = _activate(_bounded(xr + h @ rr.t() + br, clip), act[0])
    inner = reset * (h @ rh.t() + bh) if after else (reset * h) @ rh.t() + bh
    return (1 - z) * _activate(_bounded(xh + inner, clip), act[1]) + z * h


def recur(
    kind: str,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    h: Tensor | None,
    c: Tensor | None,
    p: Tensor | None,
    reverse: list[bool],
    activations: list[Activation],
    clip: float,
    flag: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Any RNN, GRU or LSTM, one step after the other; return all outputs [T, D, B, H] and the last states.

    `reverse` is true for each direction that runs backwards. `flag` is `linear_before_reset` of a GRU and
    `input_forget` of an LSTM. Beyond its length, the state of a sequence does not change and its output is zero.
    """
    hidden, cell = _start(x, r, h), _start(x, r, c)
    bias = torch.zeros((w.size(0), 2 * w.size(1)), dtype=x.dtype, device=x.device) if b is None else b
    per_direction = len(activations) // len(reverse)
    outputs, last_h, last_c = [], [], []
    for d, backwards in enumerate(reverse):
        act = activations[d * per_direction : (d + 1) * per_direction]
        w_bias, r_bias = bias[d].chunk(2, 0)
        state, memory = hidden[d], cell[d]
        steps: list[Tensor] = [state] * x.size(0)
        for t in range(x.size(0) - 1, -1, -1) if backwards else range(x.size(0)):
            projected = x[t] @ w[d].t()
            memory_now = memory
            if kind == "LSTM":
                peephole = None if p is None else p[d]
                now, memory_now = _lstm_step(projected, state, memory, r[d], w_bias + r_bias, peephole, flag, act, clip)
            elif kind == "GRU":
                now = _gru_step(projected, state, r[d], w_bias, r_bias, flag, act, clip)
            else:
                now = _activate(_bounded(projected + state @ r[d].t() + w_bias + r_bias, clip), act[0])
            if lengths is not None:
                active = (t < lengths).unsqueeze(1)
                steps[t] = torch.where(active, now, 0.0)
                now, memory_now = torch.where(active, now, state), torch.where(active, memory_now, memory)
            else:
                steps[t] = now
            state, memory = now, memory_now
        outputs.append(torch.stack(steps, 0))
        last_h.append(state)
        last_c.append(memory)
    return torch.stack(outputs, 1), torch.stack(last_h, 0), torch.stack(last_c, 0)
