"""A small Megatron-style model: tensor parallelism written by hand, described to DeepSpeed by the client.

Megatron-DeepSpeed shards its layers itself, passes an `mpu` object, and saves `universal_checkpoint_info` (which
parameters are cut along rows, padded, averaged, made of sub-parameters) through `save_checkpoint(client_state=...)`.
The same is done here, so that DeepSpeed's own code writes such a checkpoint. Every sharded parameter remembers which
elements of the whole tensor it holds: cutting `arange` the way the weight is cut, and nothing else, says how to join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from .case import Case

WIDTH, INNER, VOCAB, PADDED_VOCAB, LENGTH = 8, 6, 21, 24, 6


class Grid:
    """The `mpu` DeepSpeed asks: global rank = data rank * tp + tensor rank."""

    def __init__(self, tp: int) -> None:
        world, rank = dist.get_world_size(), dist.get_rank()
        self.tp = tp
        for first in range(0, world, tp):
            group = dist.new_group(list(range(first, first + tp)))
            if first <= rank < first + tp:
                self.tensor_group = group
        for tensor_rank in range(tp):
            group = dist.new_group(list(range(tensor_rank, world, tp)))
            if rank % tp == tensor_rank:
                self.data_group = group

    def get_model_parallel_rank(self) -> int:
        return dist.get_rank() % self.tp

    def get_model_parallel_world_size(self) -> int:
        return self.tp

    def get_slice_parallel_world_size(self) -> int:
        """What DeepSpeed asks for when it loads a universal checkpoint."""
        return self.tp

    def get_model_parallel_group(self) -> Any:
        return self.tensor_group

    def get_data_parallel_rank(self) -> int:
        return dist.get_rank() // self.tp

    def get_data_parallel_world_size(self) -> int:
        return dist.get_world_size() // self.tp

    def get_data_parallel_group(self) -> Any:
        return self.data_group


class Enter(torch.autograd.Function):
    """Into a tensor-parallel region: identity, gradients summed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, grid: Grid) -> torch.Tensor:
        ctx.grid = grid
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=ctx.grid.tensor_group)
        return gradient, None


class Leave(torch.autograd.Function):
    """Out of a tensor-parallel region: activations summed, gradients passed on."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, grid: Grid) -> torch.Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x, group=grid.tensor_group)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def sharded(shape: tuple[int, ...], cut: Callable[[torch.Tensor], torch.Tensor], seed: int) -> nn.Parameter:
    """This rank's part of a random tensor of `shape`, with the positions of its elements in the whole."""
    whole = torch.empty(shape).normal_(0, 0.2, generator=torch.Generator().manual_seed(seed))
    parameter = nn.Parameter(cut(whole).contiguous())
    parameter.positions = cut(torch.arange(whole.numel()).reshape(shape)).contiguous()
    parameter.whole_shape = shape
    parameter.tensor_model_parallel = parameter.model_parallel = True
    return parameter


def rows(grid: Grid, sections: tuple[int, ...] | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Cut dimension 0; with `sections`, each section on its own."""

    def cut(whole: torch.Tensor) -> torch.Tensor:
        parts = whole.split(list(sections)) if sections else [whole]
        return torch.cat([part.chunk(grid.tp)[grid.get_model_parallel_rank()] for part in parts])

    return cut


def columns(grid: Grid) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda whole: whole.chunk(grid.tp, dim=1)[grid.get_model_parallel_rank()]


def replicated(shape: tuple[int, ...], seed: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).normal_(0, 0.2, generator=torch.Generator().manual_seed(seed)))


class Projection(nn.Module):
    """A weight and a bias under the names Megatron gives them."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias


class Embedding(nn.Module):
    """Padded vocabulary cut by rows; position embeddings whole on each rank, averaged when joined.

    The last two positions never occur in the data, so their values may differ from rank to rank without pulling the
    rest of the model apart: a reader that takes one copy where the average is due is caught.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = [grid]
        self.word_embeddings = Projection(sharded((PADDED_VOCAB, WIDTH), rows(grid), 11), None)
        self.position_embeddings = Projection(replicated((LENGTH + 2, WIDTH), 12), None)
        self.position_embeddings.weight.data[LENGTH:] += 0.01 * grid.get_model_parallel_rank()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        weight = self.word_embeddings.weight
        local = ids - weight.shape[0] * self.grid[0].get_model_parallel_rank()
        mine = ((local >= 0) & (local < weight.shape[0])).unsqueeze(-1)
        words = nn.functional.embedding(local.clamp(0, weight.shape[0] - 1), weight) * mine
        return Leave.apply(words, self.grid[0]) + self.position_embeddings.weight[:LENGTH]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return Enter.apply(x, self.grid[0]) @ self.word_embeddings.weight.t()


class Block(nn.Module):
    """Attention-like and gated feed-forward projections: column cut, sub-parameters, row cut."""

    def __init__(self, grid: Grid, seed: int) -> None:
        super().__init__()
        self.grid = [grid]
        qkv = (WIDTH, WIDTH // 2, WIDTH // 2)
        self.input_layernorm = nn.LayerNorm(WIDTH)
        self.input_layernorm.weight = replicated((WIDTH,), seed)
        self.input_layernorm.bias = replicated((WIDTH,), seed + 1)
        self.query_key_value = Projection(
            sharded((sum(qkv), WIDTH), rows(grid, qkv), seed + 2), sharded((sum(qkv),), rows(grid, qkv), seed + 3)
        )
        self.dense = Projection(sharded((WIDTH, WIDTH), columns(grid), seed + 4), replicated((WIDTH,), seed + 5))
        self.dense_h_to_4h = Projection(sharded((2 * INNER, WIDTH), rows(grid, (INNER, INNER)), seed + 6), None)
        self.dense_4h_to_h = Projection(sharded((WIDTH, INNER), columns(grid), seed + 7), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = self.grid[0]
        h = Enter.apply(self.input_layernorm(x), grid)
        query, key_value = (h @ self.query_key_value.weight.t() + self.query_key_value.bias).chunk(2, -1)
        x = x + Leave.apply((query * key_value) @ self.dense.weight.t(), grid) + self.dense.bias
        gate, up = (Enter.apply(x, grid) @ self.dense_h_to_4h.weight.t()).chunk(2, -1)
        return x + Leave.apply((torch.relu(gate) * up) @ self.dense_4h_to_h.weight.t(), grid)


class FinalNorm(nn.LayerNorm):
    """The norm before the head, a layer of its own in a pipeline."""

    def __init__(self) -> None:
        super().__init__(WIDTH)
        self.weight, self.bias = replicated((WIDTH,), 300), replicated((WIDTH,), 301)


class Model(nn.Module):
    """The model without a pipeline."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = [grid]
        self.embedding = Embedding(grid)
        self.layers = nn.ModuleList(Block(grid, 100 * (i + 1)) for i in range(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return loss(self.embedding.logits(x), self.grid[0])


def loss(logits: torch.Tensor, grid: Grid) -> torch.Tensor:
    return Leave.apply(logits.float().pow(2).sum(), grid) / logits.shape[0] / LENGTH / PADDED_VOCAB


def build(case: Case) -> nn.Module:
    if case.pp == 1:
        model: nn.Module = Model(Grid(case.tp))
    else:
        model = build_pipeline(case)
    model.universal_info = universal_info(case)
    return model


def build_pipeline(case: Case) -> nn.Module:
    from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    grid = Grid(case.tp)
    layers = [
        TiedLayerSpec("embed", Embedding, grid, tied_weight_attr=["word_embeddings.weight"]),
        LayerSpec(Block, grid, 100),
        LayerSpec(Block, grid, 200),
        LayerSpec(FinalNorm),
        TiedLayerSpec(
            "embed", Embedding, grid, forward_fn=Embedding.logits, tied_weight_attr=["word_embeddings.weight"]
        ),
    ]
    return PipelineModule(
        layers=layers,
        topology=PipeModelDataParallelTopology(num_pp=case.pp, num_mp=case.tp, num_dp=case.dp),
        loss_fn=lambda logits, _: loss(logits, grid),
        partition_method="type:Block",
    )


def universal_info(case: Case) -> dict[str, Any]:
    """What Megatron-DeepSpeed's `universal_checkpoint_info()` says about such a model, in its own terms."""
    embed, block = (r"tied_modules\.embed", r"\d+") if case.pp > 1 else (r"embedding", r"layers\.\d+")
    return {
        "universal_checkpoint_version": 0.2,
        "original_vocab_size": VOCAB,
        "padded_vocab_size": PADDED_VOCAB,
        "pipeline_replicated_parameter_patterns": [rf"{embed}\..*"],
        "vocabulary_parameter_patterns": [rf"{embed}\.word_embeddings\.weight"],
        "parameter_to_average_patterns": [rf"{embed}\.position_embeddings\.weight"],
        "tp_replicated_parameter_patterns": [
            rf"{block}\.input_layernorm\..*",
            rf"{block}\.dense\.bias",
            *([r"3\.weight", r"3\.bias"] if case.pp > 1 else []),
        ],
        "parameter_with_row_parallelism_patterns": [rf"{block}\.dense\.weight", rf"{block}\.dense_4h_to_h\.weight"],
        "parameter_with_2_sub_params_cat_dim_0": [rf"{block}\.dense_h_to_4h\.weight"],
        "parameter_with_sub_params": [
            {
                "patterns": [rf"{block}\.query_key_value\.weight"],
                "shape": ((WIDTH, WIDTH // 2, WIDTH // 2), WIDTH),
                "partition_dim": 0,
            },
            {
                "patterns": [rf"{block}\.query_key_value\.bias"],
                "shape": ((WIDTH, WIDTH // 2, WIDTH // 2),),
                "partition_dim": 0,
            },
        ],
    }
