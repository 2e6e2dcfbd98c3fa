"""Where several axes may hold the batch, each is tried until one is verified."""

import numpy as np
import torch
from torch import nn

from rtool.converters import set_batch

from ..batch_models import exported_tokens, run, tokens


def test_an_attention_pool_of_one_image_is_opened_by_trying_its_axes():
    """At a batch of 1 the query [1, 1, 8] may hold the batch at two axes; torch's class, written out for one query."""
    torch.manual_seed(0)

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            x = x.transpose(0, 1)
            return self.attention(x.mean(0, keepdim=True), x, x, need_weights=False)[0].squeeze(0)

    module = Pool().eval()
    opened = set_batch(exported_tokens(module, 1, "ts"), "dynamic")
    with torch.no_grad():
        expected = module(torch.from_numpy(tokens(3))).numpy()
    assert np.abs(run(opened, tokens(3)) - expected).max() <= 1e-6
