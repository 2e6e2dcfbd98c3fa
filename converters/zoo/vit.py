"""ViT-tiny for faces: 144 patches of 9 x 9, 12 pre-norm blocks of width 256; the last layers read all tokens at once.

Dosovitskiy et al.: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
arXiv:2010.11929, without class token, as in An et al.: "Killing Two Birds with One Stone: Efficient and Robust
Training of Face Recognition CNNs by Partial FC", CVPR 2022, arXiv:2203.15565. Parameter names are those of
insightface's arcface_torch ("vit_t"), so its state_dicts load. Its random masking of patches in training is left out;
the `mask_token` that only the masking uses remains as an unused buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["VisionTransformer"]


class _PatchEmbedding(nn.Module):
    """Images [N, 3, H, W] -> tokens [N, patches, dim]."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class _Attention(nn.Module):
    """Multi-head self-attention; tokens [N, T, dim] in and out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        parts = self.qkv(x).reshape(n, tokens, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        weights = ((query @ key.transpose(-2, -1)) * self.width**-0.5).softmax(dim=-1)
        out: Tensor = self.proj((weights @ value).transpose(1, 2).reshape(n, tokens, self.heads * self.width))
        return out


class _Perceptron(nn.Module):
    """Linear - ReLU6 - Linear on every token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.ReLU6()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class _Block(nn.Module):
    """Attention, then perceptron, each with a LayerNorm before it and a shortcut around it."""

    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Perceptron(dim, ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Aligned faces [N, 3, H, W] float32 -> embeddings [N, embedding_size], not normalised.

    `input_size` is (height, width) in pixels; pixels beyond the last whole patch are ignored.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        depth: int = 12,
        heads: int = 8,
        patch: int = 9,
        embedding_size: int = 512,
        input_size: tuple[int, int] = (112, 112),
    ) -> None:
        super().__init__()
        patches = (input_size[0] // patch) * (input_size[1] // patch)
        self.patch_embed = _PatchEmbedding(dim, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, dim))
        self.register_buffer("mask_token", torch.zeros(1, 1, dim))
        self.blocks = nn.Sequential(*(_Block(dim, heads, 4) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.feature = nn.Sequential(
            nn.Linear(patches * dim, dim, bias=False),
            nn.BatchNorm1d(dim, eps=2e-5),
            nn.Linear(dim, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Images -> embeddings."""
        tokens = self.norm(self.blocks(self.patch_embed(x) + self.pos_embed))
        out: Tensor = self.feature(tokens.flatten(1))
        return out

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
