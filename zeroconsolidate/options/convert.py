"""The options of `convert`, as a dataclass. To add an option, add a field: this is the only place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadOption
from ..integrations.engine_names import refuse_unknown
from .averages import number_of_saves, refuse_beside_average
from .common import (
    Opening,
    Recorded,
    check,
    digest,
    directory_of,
    drop_cache,
    fill,
    reflink,
    refuse_fill_alone,
    replicas,
    restart,
)
from .declaration import Group, Switch, in_order, option
from .mapped import Mapped
from .steps import Transform, refuse_states_of, steps
from .values import dtype_name, parse_size, worker_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from os import PathLike

    import torch


@dataclass(frozen=True, kw_only=True)
class Options(Recorded):
    """The options of a conversion. Those that decide bytes are in the order in which a manifest lists them."""

    dtype: str | torch.dtype = option(
        "fp32",
        "dtype of the parameters: `fp32` (the master weights, bit for bit), `bf16`, `fp16`, or `auto` for the dtype of "
        "training; buffers keep their own",
        group=Group.OUTPUT,
        metavar="fp32|bf16|fp16|auto",
        decides="bytes",
    )
    max_shard_size: str | int | None = option(
        "50GB",
        "split the weights into files of at most this size, such as `5GB` or `5GiB`, with an index; `none` writes one "
        "file of any size; in Python, so does None",
        group=Group.OUTPUT,
        metavar="SIZE",
        decides="bytes",
    )
    base: str | PathLike[str] | None = option(
        None,
        "the original model, a directory or a hub id such as `BAAI/bge-m3`; what the checkpoint lacks is taken from "
        "it: config, tokenizer, frozen weights that were not saved, weights to merge adapters into, expected names",
        group=Group.OUTPUT,
        metavar="DIR|ID",
        decides="bytes",
        is_path=True,
    )
    lora: Literal["adapter", "merge", "keep"] | None = option(
        None,
        "what to write after training with PEFT adapters: the adapters, for PEFT to load (`adapter`, also without this "
        "option), the model with the adapters merged (`merge`), or all tensors under their names in the checkpoint "
        "(`keep`)",
        group=Group.ADAPTERS,
        choices=("adapter", "merge", "keep"),
        decides="tensors",
    )
    adapters: Sequence[str] = option(
        (),
        "name of an adapter to write or merge, such as `default`, where there are several; they are merged in the "
        "order given",
        group=Group.ADAPTERS,
        flag="--adapter",
        metavar="NAME",
        repeatable=True,
        decides="tensors",
    )
    base_differs: bool = option(
        False,
        "merge even if {base} is not the model that the adapters were trained on, which is an error otherwise",
        group=Group.ADAPTERS,
        decides="tensors",
    )
    exclude_frozen: bool = option(
        False,
        "leave out parameters that were not trained",
        group=Group.TENSORS,
        also=("--exclude-frozen-parameters",),
        decides="tensors",
    )
    ties: Literal["drop", "copy"] = option(
        "drop",
        "write a tied weight once, as transformers saves it (`drop`), or under each of its names (`copy`)",
        group=Group.TENSORS,
        choices=("drop", "copy"),
        decides="bytes",
    )
    include: Sequence[str] = option(
        (),
        "write only tensors whose name in the checkpoint matches a pattern such as `'*.layers.0.*'`",
        group=Group.TENSORS,
        metavar="GLOB",
        repeatable=True,
        decides="tensors",
    )
    exclude: Sequence[str] = option(
        (),
        "leave out tensors whose name in the checkpoint matches a pattern such as `'classifier.*'`",
        group=Group.TENSORS,
        metavar="GLOB",
        repeatable=True,
        decides="tensors",
    )
    names: Literal["hub", "in-memory", "stored"] = option(
        "hub",
        "names and layout of the tensors: those of models on the hub, without prefixes of wrappers (`hub`), those that "
        "transformers 5 has in memory (`in-memory`), or those of the checkpoint, unchanged and unchecked (`stored`)",
        group=Group.NAMES,
        choices=("hub", "in-memory", "stored"),
        decides="tensors",
    )
    rename: Sequence[str] | Callable[[str], str] | None = option(
        None,
        "replace the prefix FROM of names with TO, such as `model.=encoder.`; between slashes, FROM is a regular "
        r"expression, such as `'/\.h\.(\d+)\./=.layers.\1.'`; in Python, a function from old to new name works too",
        group=Group.NAMES,
        metavar="FROM=TO",
        repeatable=True,
        decides="tensors",
    )
    allow_missing: bool = option(
        False,
        "write the output even if a loader would not find all parameters; without this option, that is an error",
        group=Group.NAMES,
        decides="tensors",
    )
    cache: bool = option(
        True,
        "keep what transformers says about a config in the user's cache directory, and read it there the next time",
        group=Group.NAMES,
        switches=(
            Switch("--no-cache", False, "neither read nor keep what transformers says in the user's cache directory"),
        ),
        choices=(True, False),
    )
    set_config: Sequence[str] = option(
        (),
        "set a field of config.json that does not agree with the weights, such as `vocab_size=70` or "
        "`text_config.num_hidden_layers=12`; the value is JSON, or else a string",
        group=Group.OUTPUT,
        metavar="FIELD=VALUE",
        repeatable=True,
        decides="tensors",
    )
    sentence_transformers: Literal["cls", "mean", "last"] | None = option(
        None,
        "also write the files that SentenceTransformer needs to load the model, with this pooling",
        group=Group.OUTPUT,
        choices=("cls", "mean", "last"),
        decides="bytes",
    )
    rescue: bool | Literal["zeros"] = option(
        False,
        "write what is left of an incomplete checkpoint, with 16-bit copies in place of lost values where there are "
        "any; tensors that stay incomplete are left out, or with `zeros` written with zeros for lost values",
        group=Group.INCOMPLETE,
        switches=(
            Switch(
                "--rescue",
                True,
                "write what is left of an incomplete checkpoint, with 16-bit copies in place of lost values where "
                "there are any; tensors that stay incomplete are left out",
            ),
            # A flag of its own: as an optional value of the one above, it would swallow CHECKPOINT.
            Switch("--rescue=zeros", "zeros", "the same, but write incomplete tensors too, with zeros for lost values"),
        ),
        choices=(False, True, "zeros"),
        decides="bytes",
    )
    fill: str | PathLike[str] | Sequence[str | PathLike[str]] = fill("model directory or checkpoint of an earlier step")
    optimizer: bool = option(
        False,
        "also write what the optimizer keeps of each parameter, such as moments, into the folder `optimizer`, under "
        "the names of the output, with steps and settings of param groups: to train on without DeepSpeed",
        group=Group.OUTPUT,
        decides="tensors",
    )
    weights_only: bool = option(
        False,
        "write the weights even if the layout of the optimizer's state is not understood",
        group=Group.CHECKPOINT,
    )
    overwrite: bool = option(
        False, "replace the model in the output directory once the new one is complete", group=Group.OUTPUT
    )
    reflink: Literal["auto", "always", "never"] = reflink("weights", " if most of them can be cloned")
    average: str | None = option(
        None,
        "write the mean of several checkpoints, each of which is a path of its own, or of the {last} saves of a run "
        "directory: `uniform`; `ema:0.9`, a moving average in their order; or `weights:0.2,0.8`",
        group=Group.OUTPUT,
        metavar="uniform|ema:DECAY|weights:W,…",
        decides="tensors",
    )
    last: str | int | None = option(
        None,
        "with {average}: take so many of the newest complete saves of a run directory",
        group=Group.OUTPUT,
        metavar="N",
        decides="bytes",
    )
    transforms: Sequence[Transform] = option(
        (),
        "transformations of your own, which are applied one after the other when the tensors have the names they are "
        "written under",
        group=Group.OUTPUT,
        flag=None,
        decides="bytes",
    )
    model_card: bool = option(
        True,
        "write a model card, `README.md`, beside a model or adapter that comes with none: base model, library, step, "
        "what was merged, how to load it, how it was made",
        group=Group.OUTPUT,
        switches=(Switch("--no-model-card", False, "do not write a model card, `README.md`"),),
        choices=(True, False),
        decides="bytes",
    )
    quantize: Literal["fp8", "fp8-block", "int8"] | None = option(
        None,
        "quantize the linear layers of the model's blocks, in a format that vLLM, SGLang and transformers load: `fp8` "
        "(E4M3, a scale for each row; compressed-tensors), `fp8-block` (E4M3, a scale for each 128x128 block; as "
        "DeepSeek and Qwen publish it) or `int8` (weights only, a scale for each row; compressed-tensors)",
        group=Group.OUTPUT,
        choices=("fp8", "fp8-block", "int8"),
        decides="tensors",
    )
    quantize_skip: Sequence[str] = option(
        (),
        "with {quantize}: leave tensors as they are whose name in the output matches a pattern such as "
        "`'*.layers.0.*'`",
        group=Group.OUTPUT,
        metavar="GLOB",
        repeatable=True,
        decides="tensors",
    )
    workers: int | Literal["auto"] = option(
        "auto",
        "how many threads cast, merge and compare side by side; `auto`: one for each processor up to eight, or a "
        "single one if everything is copied as it is; the output is the same for any number",
        group=Group.OUTPUT,
        metavar="N|auto",
    )
    executor: str | Executor | Callable[[], Executor] | None = option(
        None,
        "have the weights written by workers, in tasks of some hundred megabytes: `ray` and `dask` start them here, or "
        "find the cluster of this machine, `ray://HOST:PORT` and `dask://HOST:PORT` name one elsewhere, `mpi` takes "
        "the other ranks of `mpiexec`; in Python, also any executor of `concurrent.futures`, or a function that makes "
        "one, which is called again if its workers are lost",
        group=Group.MACHINES,
        metavar="ray|dask|mpi",
    )
    map: Sequence[str] = option(
        (),
        "what is called OLD where the conversion was begun is called NEW on the machines that write parts of it, such "
        "as `/scratch=/mnt/scratch`",
        group=Group.MACHINES,
        metavar="OLD=NEW",
        repeatable=True,
    )
    drop_cache: bool = drop_cache()
    restart: bool = restart()
    digest: Literal["sha256", "xxh3"] | None = digest()
    check: Literal["sample", "all", "none"] = check(" (in adapter runs, the base model with its frozen copies as well)")
    replicas: Literal["equal", "first"] = replicas()

    def __post_init__(self) -> None:
        Opening.__post_init__(self)
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        object.__setattr__(self, "workers", worker_count(self.workers))
        if isinstance(self.executor, str):
            refuse_unknown(self.executor)
        Mapped.parse(self.map)
        if self.max_shard_size == "none":
            object.__setattr__(self, "max_shard_size", None)
        if self.max_shard_size is not None:
            parse_size(self.max_shard_size)
        refuse_fill_alone(self.fill, rescue=bool(self.rescue))
        object.__setattr__(self, "last", number_of_saves(self.last, self.average))
        object.__setattr__(self, "transforms", steps(self.transforms))
        of_one = {"--rescue": self.rescue, "--optimizer": self.optimizer, "--tag": self.tag,
                  "--checkpoint": self.checkpoint}  # fmt: skip
        refuse_beside_average(self.average, of_one)
        refuse_states_of([*self.transforms, *([self.quantize] if self.quantize else [])], with_states=self.optimizer)
        if self.quantize_skip and self.quantize is None:
            raise BadOption("--quantize-skip is used only with --quantize", expected="--quantize as well")

    @property
    def places(self) -> Mapped:
        """`map`, understood."""
        return Mapped.parse(self.map)

    @cached_property
    def base_directory(self) -> str | None:
        """`base` as a directory: a hub id is looked up, or downloaded, when this is first asked for, and only then."""
        return directory_of(self.base)

    def _decided(self, name: str) -> object:
        return self.base_directory if name == "base" else getattr(self, name)

    @property
    def max_shard_bytes(self) -> int | None:
        """`max_shard_size` as a number."""
        return None if self.max_shard_size is None else parse_size(self.max_shard_size)

    @property
    def partial(self) -> bool:
        """Whether tensors are left out on purpose."""
        return bool(self.exclude_frozen or self.include or self.exclude)

    @classmethod
    def from_manifest(
        cls,
        chosen: dict[str, Any],
        *,
        tag: str | None,
        base: str | PathLike[str] | None,
        transforms: Sequence[Transform] = (),
    ) -> Options:
        """The options of a manifest, as far as they decide which tensors there are and how they are called.

        `transforms`: those of the caller, of which a manifest keeps the record only.
        """
        known = {declared.name for declared in in_order(cls) if declared.decides == "tensors"}
        if chosen.get("lora") == "merge":
            known |= {"dtype"}  # merged weights depend on it, and on `base`, of which a manifest keeps the name only
        kept = {key: value for key, value in chosen.items() if key in known}
        if isinstance(kept.get("rename"), str):
            del kept["rename"]  # a function, of which a manifest keeps the name only
        return cls(tag=tag, ties="copy", base=base, transforms=transforms, **kept)
