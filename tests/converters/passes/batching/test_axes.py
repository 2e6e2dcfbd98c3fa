"""The batch is followed where it is not the first axis of a value."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rtool.converters import set_batch

from ..batch_models import exported_tokens, run, tokens


class Attention(nn.Module):
    """Attention over tokens: reshapes to [tokens, images * heads, width] and to [tokens * images, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.attention(x, x, x)[0].mean(1))


class Pooling(nn.Module):
    """Attention with learned queries, expanded to one set per image."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, 3, 8))

    def forward(self, x):
        return self.attention(self.queries.expand(x.shape[0], -1, -1), x, x, need_weights=False)[0].flatten(1)


class Memory(nn.Module):
    """An LSTM that starts from zeros, then one that starts from a learned state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(8, 4, batch_first=True), nn.LSTM(4, 4)
        self.start = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x):
        state = self.start.expand(1, x.shape[0], 4).contiguous()
        return self.second(self.first(x)[0].transpose(0, 1), (state, state))[0][-1]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 4, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.gru(x)[1].permute(1, 0, 2).flatten(1)


class Sampled(nn.Module):
    """Samples every image on one constant grid."""

    def forward(self, x):
        line = torch.linspace(-1, 1, 5)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)[None].expand(x.shape[0], -1, -1, -1)
        return nn.functional.grid_sample(x[:, None], grid, align_corners=True).flatten(1)


@pytest.mark.parametrize(
    ("kind", "fixed"), [("ts", 1), ("ts", 4), ("dy", 4), pytest.param("dy", 1, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("build", [Attention, Pooling, Memory, Gated, Sampled])
def test_a_batch_that_is_not_the_first_axis_is_followed(build, kind, fixed):
    torch.manual_seed(0)
    module = build()
    model = exported_tokens(module, fixed, kind)
    for batch in ("dynamic", 3):
        rewritten = set_batch(model, batch)
        onnx.checker.check_model(rewritten, full_check=True)
        for size in (1, 2, 5) if batch == "dynamic" else (3,):
            with torch.no_grad():
                expected = module(torch.from_numpy(tokens(size))).numpy()
            assert np.abs(run(rewritten, tokens(size)) - expected).max() <= 1e-5 * np.abs(expected).max()
