"""Round weights so that a layer's outputs change least, instead of each weight to its nearest level.

Column after column of a layer's weights is rounded, and the weights that are still free make up for its error as well
as the layer's inputs allow, by the inverse of their second moments: Frantar et al., "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers", ICLR 2023, arXiv:2210.17323. On the demo's model it removes five
sixths of what rounding costs, in seconds; 512 channels of 3 x 3 take a quarter of a minute per layer.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....errors import GateError, first_named
from .fake_quantisation import MOST, FakeWeight

__all__ = ["round_to_inputs", "rounding_order_values"]

_IMAGES = 384
"""Most images whose inputs are measured."""
_SAMPLES_PER_COLUMN = 128
"""Positions that are measured, drawn over images and places, per column of the weight."""
_MOST_COLUMNS = 4608
"""Of a weight: 512 channels of 3 x 3. Memory grows by the square, time by the cube, so that larger ones, such as the
embedding layers of face networks, keep their nearest levels."""
_DAMPING = 0.01
"""Share of the mean second moment that is added to each: inputs that were never seen must not decide."""


class _Moments:
    """Second moments of the inputs of one weight, float64 [groups, columns, columns], summed over all its calls."""

    def __init__(self, layer: str, generator: torch.Generator) -> None:
        self.layer, self.sums, self.finite = layer, torch.zeros(()), True
        self._generator = generator

    @torch.no_grad()
    def add(self, layer: nn.Module, inputs: tuple[Tensor, ...], images: int) -> None:
        """Add one call: `inputs[0]` is [N, C, H, W] or [N, C]; `images` are as many as there will be."""
        values = inputs[0]
        self.finite &= bool(torch.isfinite(values).all())  # of all positions, though few are summed
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            columns = layer.weight[0].numel()
            for image in values:
                seen = F.unfold(image[None], layer.kernel_size, layer.dilation, layer.padding, layer.stride)[0]
                wanted = -(-_SAMPLES_PER_COLUMN * columns // images)
                if wanted < seen.shape[1]:
                    seen = seen[:, torch.randint(seen.shape[1], (wanted,), generator=self._generator)]
                self._sum(seen.reshape(layer.groups, columns, -1))
        else:
            self._sum(values.reshape(-1, values.shape[-1]).t()[None])

    def _sum(self, columns: Tensor) -> None:
        exact = columns.double()
        self.sums = self.sums + torch.bmm(exact, exact.transpose(1, 2))


def round_to_inputs(module: nn.Module, images: Tensor, batch: int) -> int:
    """Let every `FakeWeight` of 2-D convolutions and linear layers begin where its levels fit the layer's inputs.

    Args:
        module: The network of a `QuantisedNetwork`; the inputs are those that it computes in its present levels.
        images: Preprocessed images float32 [N, ...]; some hundreds of them, drawn at random but always the same, are
            used.
        batch: Images per call.

    Returns:
        How many weights were rounded so; others keep their nearest levels.

    Raises:
        GateError: the inputs of a layer hold NaN or infinity.
    """
    generator = torch.Generator().manual_seed(0)
    moments: dict[FakeWeight, _Moments] = {}
    drawn = torch.randperm(len(images), generator=generator)[: max(_IMAGES, batch)]
    chosen = images[drawn[torch.arange(-(-len(drawn) // batch) * batch) % len(drawn)]]
    hooks = []
    for name, layer in module.named_modules():
        fake = _fake_of(layer)
        if fake is not None and _is_known(layer):
            add = partial(moments.setdefault(fake, _Moments(name, generator)).add, images=len(chosen))
            hooks.append(layer.register_forward_pre_hook(add))
    with torch.no_grad():
        for start in range(0, len(chosen), batch):
            module(chosen[start : start + batch])
    for hook in hooks:
        hook.remove()
    if broken := [each.layer for each in moments.values() if not each.finite]:
        raise GateError(
            f"inputs of {first_named(broken)} hold NaN or infinity for these images, which int8 cannot represent"
        )
    called = [fake for fake, each in moments.items() if each.sums.ndim]
    for fake in called:
        fake.begin_at(rounding_order_values(fake.first, fake.step, moments.pop(fake).sums))
    return len(called)


def rounding_order_values(weight: Tensor, step: Tensor, moments: Tensor) -> Tensor:
    """What each weight is when its turn to be rounded comes; its nearest level is the one that fits the inputs.

    Args:
        weight: float32 [O, ...], output channels first.
        step: The width of a level, [O, 1, ...].
        moments: X Xᵀ of the inputs, float64 [groups, columns, columns]; a column is one weight of an output channel.

    Returns:
        float32 of the shape of `weight`.
    """
    groups = len(moments)
    rows = weight.double().reshape(groups, len(weight) // groups, -1)
    steps = step.double().reshape(groups, -1, 1)
    turned = torch.empty_like(rows)
    for group, (values, width, sums) in enumerate(zip(rows, steps, moments, strict=True)):
        order = torch.argsort(sums.diagonal(), descending=True)
        factor = _inverse_factor(sums[order][:, order])
        left = values[:, order]
        for column in range(left.shape[1]):
            level = torch.round(left[:, column : column + 1] / width).clamp(-MOST, MOST)
            error = (left[:, column : column + 1] - level * width) / factor[column, column]
            left[:, column + 1 :] -= error * factor[column, column + 1 :]
        turned[group][:, order] = left
    return turned.reshape(weight.shape).float()


def _inverse_factor(moments: Tensor) -> Tensor:
    """The upper triangular U with Uᵀ U = M⁻¹, of damped moments M."""
    damping = _DAMPING * moments.diagonal().mean() + torch.finfo(torch.float64).tiny
    damped = moments + damping * torch.eye(len(moments), dtype=moments.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _fake_of(layer: nn.Module) -> FakeWeight | None:
    parametrised = getattr(layer, "parametrizations", {})
    source = getattr(parametrised["weight"][0], "source", None) if "weight" in parametrised else None
    return source if isinstance(source, FakeWeight) else None


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and layer.weight[0].numel() <= _MOST_COLUMNS
    return isinstance(layer, nn.Linear) and layer.in_features <= _MOST_COLUMNS
