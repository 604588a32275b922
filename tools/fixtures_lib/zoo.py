"""The models that are trained. Dimensions are odd on purpose: nothing divides evenly by any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY = 13
WIDTH = 7

# The first integer that float32 cannot hold: a reader that casts buffers turns it into 16777216.
BEYOND_FLOAT32 = 2**24 + 1


class Block(nn.Module):
    """A residual MLP. `scale` has a single element: fewer than there are ranks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width + 1)
        self.down = nn.Linear(2 * width + 1, width, bias=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.down(torch.relu(self.up(self.norm(x))))


class Buffers(nn.Module):
    """One buffer of every kind that tempts a reader to cast, flatten or forget it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inverse_frequency", 1.0 / 10_000 ** (torch.arange(4) / 4))
        self.register_buffer("positions", torch.tensor([[0, 1, BEYOND_FLOAT32]]))
        self.register_buffer("mask", torch.tensor([[True, False, False], [True, True, False]]))
        self.register_buffer("updates", torch.tensor(BEYOND_FLOAT32))
        self.register_buffer("temperature", torch.tensor(0.7))
        self.register_buffer("transposed", torch.arange(6.0).reshape(2, 3).t())  # strides (1, 3)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


class TinyLM(nn.Module):
    """A language model of some `width` whose output head is its input embedding.

    `scalar` adds a parameter without dimensions, `channels_last` a convolution whose weight is not contiguous, `empty`
    a layer whose weight has no elements. That one is never called: ZeRO-3 waits for ever for weights it need not fetch.
    """

    def __init__(
        self,
        *,
        width: int = WIDTH,
        layers: int = 2,
        empty: bool = False,
        scalar: bool = False,
        channels_last: bool = False,
    ):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.empty = nn.Linear(0, width, bias=False) if empty else None
        self.gain = nn.Parameter(torch.tensor(1.5)) if scalar else None
        self.conv = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last) if channels_last else None
        self.buffers_of_all_kinds = Buffers()
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64 [batch, tokens]. Returns a loss, fp32 and 0-d."""
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        if self.conv is not None:
            x = x + self.conv(x[:, None, :2, :2].expand(-1, 2, -1, -1)).mean()
        if self.gain is not None:
            x = x * self.gain
        return self.head(x).float().pow(2).mean()
