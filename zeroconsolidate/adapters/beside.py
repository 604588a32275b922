"""What a run trained beside its adapters: in the model, outside of PEFT's file, or around the model.

LLaVA keeps such parameters (its projector) in `non_lora_trainables.bin` beside the adapter, by their names in the PEFT
model; here it is a safetensors file of the same names. A merged model holds those that are its own, and what stood
around it (a value head, a projection) lies in a folder of its own: some loaders read every file of weights they find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archive.model_files import BESIDE_FOLDER, NON_LORA_WEIGHTS
from ..archive.phrases import listed
from ..errors import Disagreement
from ..naming.decision import VALUE_HEAD
from ..plan.build import Source, tensor_plans
from ..plan.layout import lay_out
from .wrapping import PEFT_MODEL, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..dtypes import DType
    from ..plan.layout import FilePlan
    from .wrapping import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Tensors for a file of their own, and what is said of them."""

    tensors: Mapping[str, Source]
    """By their names in the file."""
    warnings: tuple[str, ...]

    def files(self, dtype: DType | None, *, folder: str = "") -> list[FilePlan]:
        """The file, if there is anything to put into it."""
        name = f"{folder}/{NON_LORA_WEIGHTS}" if folder else NON_LORA_WEIGHTS
        return [lay_out(name, tensor_plans(self.tensors, dtype))] if self.tensors else []


def beside_adapter(names: Iterable[str], named: Mapping[str, Source], parts: Mapping[str, Part]) -> Beside:
    """What of `names` goes into the file beside an adapter. Raises Disagreement for two tensors of one name."""
    own, around = dict[str, Source](), dict[str, Source]()
    for name in names:
        part = parts[name]
        of_model = part.kind is not Kind.BESIDE
        put(own if of_model else around, f"{PEFT_MODEL}{part.inner}" if of_model else part.module, named[name])
    warnings = []
    if own:
        warnings.append(
            f"trained beside the adapter, so in {NON_LORA_WEIGHTS}: {listed(list(own), 4)}; after from_pretrained: "
            f'model.load_state_dict(safetensors.torch.load_file(".../{NON_LORA_WEIGHTS}"), strict=False)'
        )
    if around:
        warnings.append(
            f"trained around the PEFT model, so in {NON_LORA_WEIGHTS}: {listed(list(around), 4)}; they belong to the "
            "module that the training code put around it"
        )
    return Beside(tensors=own | around, warnings=tuple(warnings))


def beside_model(
    tensors: Mapping[str, Source], parts: Mapping[str, Part], ties: Mapping[str, str]
) -> tuple[dict[str, Source], Beside, tuple[str, ...]]:
    """(what stays in a merged model's file, what goes into a file of its own, names that are left out).

    `tensors`: those around the model, by their names in the checkpoint. TRL reads value heads from the model's file. A
    second name of one of the model's own tensors is none of them.
    """
    inside = {ties.get(name, name) for name, part in parts.items() if part.kind is not Kind.BESIDE}
    kept, around, left_out = dict[str, Source](), dict[str, Source](), []
    for name, source in tensors.items():
        if name in ties or name in inside or source.role != "trainable":
            left_out.append(name)
        elif parts[name].module.startswith(VALUE_HEAD):
            put(kept, parts[name].module, source)
        else:
            put(around, parts[name].module, source)
    warnings = []
    if kept:
        warnings.append(f"{', '.join(kept)}: TRL reads them, transformers ignores them")
    if around:
        warnings.append(
            f"trained around the model, so in {BESIDE_FOLDER}/{NON_LORA_WEIGHTS}: {listed(list(around), 4)}; they "
            "belong to the module that the training code put around it"
        )
    return kept, Beside(tensors=around, warnings=tuple(warnings)), tuple(left_out)


def put(tensors: dict[str, Source], name: str, source: Source) -> None:
    """Add a tensor under a name that none has yet. Raises Disagreement: one of two would be lost."""
    known = tensors.setdefault(name, source)
    if known.name != source.name:
        raise Disagreement(
            f"two tensors of the checkpoint would have the name {name}", found=f"{known.name} and {source.name}"
        )
