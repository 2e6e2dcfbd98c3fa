"""Signal processing: Fourier transforms over real pairs, windows, mel filters.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cosine_window", "fourier_transform", "mel_weights", "short_time_fourier"]


def _as_complex(x: Tensor) -> Tensor:
    """[..., 1] real or [..., 2] real and imaginary, as complex [...]."""
    imaginary = x[..., 1] if x.size(-1) == 2 else torch.zeros_like(x[..., 0])
    return torch.complex(x[..., 0], imaginary)


def fourier_transform(x: Tensor, length: int | None, axis: int, inverse: bool, onesided: bool) -> Tensor:
    """Transform of a signal [..., 1 or 2] along `axis`, zero-padded or cut to `length`.

    One-sided: only the first half of the frequencies (forward), or from it back to a real signal (inverse).
    """
    axis = axis % x.dim()
    signal = _as_complex(x)
    if inverse and onesided:
        real: Tensor = torch.fft.irfft(signal, length, dim=axis)
        return real.unsqueeze(-1)
    result = torch.fft.ifft(signal, length, dim=axis) if inverse else torch.fft.fft(signal, length, dim=axis)
    if onesided:
        result = result.narrow(axis, 0, result.size(axis) // 2 + 1)
    return torch.view_as_real(result)


def short_time_fourier(x: Tensor, step: int, window: Tensor | None, length: int, onesided: bool) -> Tensor:
    """Transforms of overlapping frames of `x` [B, L, 1 or 2] (or [B, L]): [B, frames, bins, 2]."""
    x = x.unsqueeze(-1) if x.dim() == 2 else x
    frames = _as_complex(x).unfold(1, length, step)
    spectrum = torch.fft.fft(frames if window is None else frames * window, dim=-1)
    return torch.view_as_real(spectrum[..., : length // 2 + 1] if onesided else spectrum)


def cosine_window(
    size: int, weights: tuple[float, ...], periodic: bool, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """`weights[0] - weights[1] cos(x) + weights[2] cos(2x)` over one period; if not `periodic`, symmetric."""
    period = size if periodic else size - 1
    angles = torch.arange(size, dtype=torch.float64, device=device) * (2 * math.pi / period)
    total = torch.zeros_like(angles)
    for order, weight in enumerate(weights):
        total = total + (-1) ** order * weight * torch.cos(order * angles)
    return total.to(dtype)


def _hertz(mel: float) -> float:
    return 700 * math.expm1(mel / 2595 * math.log(10))


def _mel(hertz: float) -> float:
    return 2595 * math.log1p(hertz / 700) / math.log(10)


def mel_weights(
    bands: int,
    length: int,
    rate: int,
    low: float,
    high: float,
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> Tensor:
    """Triangular mel filters [length // 2 + 1, bands] for a transform of `length` samples at `rate` hertz."""
    start, step = _mel(low), (_mel(high) - _mel(low)) / (bands + 2)
    edges = [int((length + 1) * _hertz(index * step + start) // rate) for index in range(bands + 2)]
    weights = torch.zeros((length // 2 + 1, bands), dtype=torch.float64)
    for band in range(bands):
        left, centre, right = edges[band : band + 3]
        if left == centre:
            weights[centre, band] = 1.0
        for position in range(left, centre + 1 if centre > left else left):
            weights[position, band] = (position - left) / (centre - left)
        for position in range(centre, right):
            weights[position, band] = (right - position) / (right - centre)
    return weights.to(device=device, dtype=dtype)
