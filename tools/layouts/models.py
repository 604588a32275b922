"""Tiny models whose parameters are all different, all odd-sized where the layout allows, and all trained.

Every weight starts random (norms and biases too): a reader that mixes up two parameters of one shape must fail the
comparison, and would not if both were ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from . import megatron
from .case import ds_config
from .patches import PATCHES

if TYPE_CHECKING:
    from collections.abc import Callable

    from .case import Case

VOCAB = 23


class Block(nn.Module):
    """Norm, two projections, a one-element scale; widths that no world size divides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width + 1)
        self.down = nn.Linear(2 * width + 1, width, bias=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.down(torch.relu(self.up(self.norm(x))))


class ExpertBlock(Block):
    """A block followed by one or more mixtures of four experts each."""

    def __init__(self, width: int, case: Case, expert_degrees: tuple[int, ...]) -> None:
        super().__init__(width)
        from deepspeed.moe.layer import MoE

        def expert() -> nn.Module:
            return nn.Sequential(nn.Linear(width, width), nn.GELU())

        self.mixtures = nn.ModuleList(
            MoE(
                width, expert(), num_experts=4, ep_size=degree, k=1, min_capacity=0, use_residual=case.residual
            )  # min_capacity 0: tiny batches must not pad
            for degree in expert_degrees
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        for mixture in self.mixtures:
            x = x + mixture(x)[0]
        return x


class TensorBlock(nn.Module):
    """Plain, fused (gate_up) and sub-parameter (qkv) projections; every column layer ends in a row layer.

    `legal=False` reduces sharded activations locally instead, so that replicated parameters drift apart.
    """

    def __init__(self, width: int, inner: int, *, legal: bool) -> None:
        super().__init__()
        self.legal = legal
        self.norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * inner)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width, bias=False)
        self.qkv = nn.Linear(width, 2 * width)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        if self.legal:
            query, key_value = self.qkv(h).chunk(2, -1)
            gate, up = self.gate_up(h).chunk(2, -1)
            mlp = self.down(torch.relu(self.up(h)) + gate * up)
            return x + self.scale * mlp + self.o_proj(self.q_proj(h) + query * key_value)
        x = x + self.scale * self.down(torch.relu(self.up(h))) + self.o_proj(self.q_proj(h))
        return x + self.gate_up(h).mean(-1, keepdim=True) + self.qkv(h).mean(-1, keepdim=True)


class Net(nn.Module):
    """Embedding, blocks, norm, head; buffers of three dtypes and one that is not saved."""

    def __init__(self, width: int, block: Callable[[], nn.Module], case: Case) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.layers = nn.ModuleList(block() for _ in range(case.blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)
        if case.tied:
            self.head.weight = self.embed.weight
        self.register_buffer("inv_freq", torch.arange(4).float() / 7)
        self.register_buffer("position_ids", torch.arange(3) + 16777217)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)).float().pow(2).mean()


def randomize(model: nn.Module, seed: int = 7) -> nn.Module:
    """Give every parameter its own random values, the same on every rank that builds the same model."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return model


def build_net(case: Case) -> nn.Module:
    return randomize(Net(9, lambda: Block(9), case))


def build_sharded_net(case: Case) -> nn.Module:
    """The plain net, its parameters partitioned over MiCS shard groups as they are born."""
    import deepspeed

    with deepspeed.zero.MiCS_Init(config_dict_or_path=ds_config(case)):
        return Net(9, lambda: Block(9), case)


def build_tensor(case: Case) -> nn.Module:
    return randomize(Net(8, lambda: TensorBlock(8, 6, legal=True), case))


def build_uneven(case: Case) -> nn.Module:
    return randomize(Net(8, lambda: TensorBlock(8, 5, legal=False), case))


def build_experts(case: Case) -> nn.Module:
    # Expert weights are local to their rank, so they are not touched by randomize(): equal seeds would make the
    # experts of all ranks equal and a wrong expert number invisible.
    net = Net(7, lambda: ExpertBlock(7, case, (case.ep,)), case)
    return scatter_experts(net, case)


def build_two_degrees(case: Case) -> nn.Module:
    """Two mixtures a block, of different expert-parallel degrees: two expert groups in one optimizer."""
    return scatter_experts(Net(7, lambda: ExpertBlock(7, case, (1, case.ep)), case), case)


def scatter_experts(net: nn.Module, case: Case) -> nn.Module:
    """Random dense weights equal everywhere, random experts that depend on their global number only."""
    import torch.distributed as dist
    from deepspeed.moe.experts import Experts

    randomize(net)
    for number, module in enumerate(m for m in net.modules() if isinstance(m, Experts)):
        local = module.num_local_experts
        first = dist.get_rank() % (4 // local) * local
        for index, expert in enumerate(module.deepspeed_experts):
            randomize(expert, seed=1000 * (number + 1) + first + index)
    return net


def build_pipeline(case: Case) -> nn.Module:
    from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec

    width = 9
    torch.manual_seed(1234)

    def project(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x @ module.weight.t()

    if case.tied:
        first = TiedLayerSpec("emb", nn.Embedding, VOCAB, width)
        last = TiedLayerSpec("emb", nn.Embedding, VOCAB, width, forward_fn=project)
    else:
        first = LayerSpec(nn.Embedding, VOCAB, width)
        last = LayerSpec(nn.Linear, width, VOCAB, bias=False)
    layers = [first, LayerSpec(PipelineBlock, width), double, LayerSpec(PipelineBlock, width)]
    layers += [LayerSpec(nn.LayerNorm, width), last]
    return PipelineModule(
        layers=layers,
        num_stages=case.pp,
        loss_fn=lambda out, _: out.float().pow(2).mean(),
        partition_method="uniform",
    )


class PipelineBlock(Block):
    """A block with a buffer of its own: pipelines keep buffers in the layer files only."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        randomize(self, seed=int(torch.randint(1 << 30, ())))
        self.register_buffer("position_ids", torch.arange(3) + 16777217)


def double(x: torch.Tensor) -> torch.Tensor:
    """A layer without parameters: it takes a layer index and leaves no file."""
    return x * 2.0


def build_mixtral(case: Case) -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    PATCHES["record_registry"]()
    config = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=case.blocks,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    )
    return randomize(MixtralForCausalLM(config))


BUILDERS: dict[str, Callable[[Case], nn.Module]] = {
    "net": build_net,
    "mics": build_sharded_net,
    "tensor": build_tensor,
    "uneven": build_uneven,
    "experts": build_experts,
    "two_degrees": build_two_degrees,
    "pipeline": build_pipeline,
    "mixtral": build_mixtral,
    "megatron": megatron.build,
}
