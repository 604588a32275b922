"""Takes the true values from the live engine at the moment of the save, and the float32 copy's outputs after it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file
from transformers import TrainerCallback

from .cases import STEPS, Case
from .outputs import flag_inference, forward, model_inputs

if TYPE_CHECKING:
    from collections.abc import Callable


class TruthCallback(TrainerCallback):
    """Collects, on every rank, the masters and the live outputs when the Trainer has just saved its last checkpoint.

    parameters: live name -> value. Trainable ones are the float32 masters; frozen ones keep their own dtype and are
      present only when the checkpoint holds them.
    trainable: live name -> the dtype the live module computes with: not always the training dtype, since adapters stay
      float32 beside a bf16 base under ZeRO-3.
    outputs: name -> tensor, computed by the engine's own module.
    """

    def __init__(self, case: Case, tokenizer: Any) -> None:
        self.case = case
        self.inputs = model_inputs(case.recipe, tokenizer)
        self.parameters: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self.trainable: dict[str, torch.dtype] = {}

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_kwargs: Any) -> None:
        """Read everything; each step is a collective, so all ranks must come here."""
        if state.global_step != STEPS:
            return
        # The Trainer saves a PeftModel without its frozen base; FlagEmbedding's wrapper hides the PeftModel from it.
        frozen_saved = not hasattr(model, "peft_config")
        for name, parameter in model.named_parameters():
            with GatheredParameters([parameter]):
                working = parameter.detach().clone()
            if not parameter.requires_grad:
                if frozen_saved:
                    self.parameters[name] = working
                continue
            master = safe_get_full_fp32_param(parameter).detach().reshape(working.shape).clone()
            if not torch.equal(master.to(working.dtype), working):
                msg = f"{name}: the master, rounded to {working.dtype}, is not what the live module computes with"
                raise ValueError(msg)
            self.parameters[name] = master
            self.trainable[name] = working.dtype
        self.outputs = forward(self.case.recipe, model, self.inputs)

    def write(self, folder: Path, rebuild: Callable[[], torch.nn.Module], tokenizer: Any) -> dict[str, Any]:
        """Write `expected.safetensors` and `outputs.safetensors`; return what provenance should say about them.

        rebuild: makes the untrained model anew, in float32, outside DeepSpeed. It gets the masters, and answers:
          `float32.*` as it stands, `merged.*` after peft's `merge_and_unload()` if it has adapters, `flag.*` through
          FlagEmbedding's inference classes from the directory it saves.
        """
        recipe = self.case.recipe
        copy = rebuild().float()
        own = dict(copy.named_parameters())
        with torch.no_grad():
            for name in self.trainable:
                own[name].copy_(self.parameters[name])
        outputs = dict(self.inputs)
        outputs |= {f"live.{name}": value for name, value in self.outputs.items()}
        outputs |= {f"float32.{name}": value for name, value in forward(recipe, copy, self.inputs).items()}

        peft_model = copy if hasattr(copy, "peft_config") else getattr(copy, "model", None)
        if hasattr(peft_model, "peft_config"):
            merged = peft_model.merge_and_unload()
            if peft_model is copy:
                copy = merged
            else:
                copy.model = merged
            outputs |= {f"merged.{name}": value for name, value in forward(recipe, copy, self.inputs).items()}
        if recipe != "causal":
            with tempfile.TemporaryDirectory() as scratch:
                copy.save(scratch)
                tokenizer.save_pretrained(scratch)
                heads = getattr(copy, "unified_finetuning", False)
                if recipe == "m3" and not heads:
                    _copy_heads(self.case, scratch)
                outputs |= {f"flag.{name}": value for name, value in flag_inference(recipe, scratch, heads).items()}

        save_file(
            {name: value.contiguous() for name, value in self.parameters.items()}, folder / "expected.safetensors"
        )
        save_file(outputs, folder / "outputs.safetensors")
        return {"trainable": len(self.trainable), "frozen": len(self.parameters) - len(self.trainable),
                "live_equals_rounded_copy": self._rounded_copy_agrees(rebuild)}  # fmt: skip

    def _rounded_copy_agrees(self, rebuild: Callable[[], torch.nn.Module]) -> bool:
        """Whether the masters, rounded to the live dtypes in a model without DeepSpeed, answer as the live one did.

        If they do, a test may ask for a difference of zero.
        """
        copy = rebuild().to(torch.bfloat16 if self.case.bf16 else torch.float32)
        for name, parameter in copy.named_parameters():
            if name in self.trainable:
                parameter.data = self.parameters[name].to(self.trainable[name])
        again = forward(self.case.recipe, copy, self.inputs)
        return all(torch.equal(again[name], value) for name, value in self.outputs.items())


def _copy_heads(case: Case, folder: str) -> None:
    """BGEM3FlagModel wants both heads; an unsupervised run leaves the base's unchanged."""
    for name in ("colbert_linear.pt", "sparse_linear.pt"):
        Path(folder, name).write_bytes(Path("_bases", case.base, name).read_bytes())


def is_first_rank() -> bool:
    """Whether this process is the one that writes."""
    return dist.get_rank() == 0
