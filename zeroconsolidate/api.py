"""The verbs: they wire the stages together and own every default."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Unpack

from .opening.info import CheckpointInfo, describe
from .opening.open import open_catalog, open_incomplete
from .opening.opened import open_to_convert
from .options import OptionKeywords, Options, Path, Progress, Roots, roots_of
from .outputs.checks import refuse_unplaced
from .outputs.make import make
from .outputs.mapping import Checkpoint
from .outputs.model import plan_output
from .outputs.planned import plan_weights
from .outputs.report import Report, report_of
from .run.digest import maker
from .run.execute import BLOCK_BYTES
from .write.stage import refuse_inside

if TYPE_CHECKING:
    from .plan.build import Cost


def inspect(src: Roots, *, tag: str | None = None) -> CheckpointInfo:
    """What a checkpoint holds, from metadata alone: a moment, whatever the model's size.

    `src` may be several directories that hold one checkpoint together, `tag` may be "last-complete". Files that are
    missing or damaged are listed with what is lost, not an error. Raises NotACheckpoint, DamagedFile, Disagreement,
    UnsupportedLayout.

    >>> info = inspect("tests/fixtures/z3_bf16/checkpoint")
    >>> info.stage, info.world_size, info.training_dtype, info.missing_files
    (3, 2, 'bfloat16', ())
    """
    left = open_incomplete(src, tag)
    return describe(left.catalog, left.reasons)


def open_checkpoint(src: Roots, *, tag: str | None = None) -> Checkpoint:
    """A lazy mapping from parameter and buffer names to tensors; each is read when its `load()` is called.

    Raises what `inspect` raises, and MissingFiles.

    >>> checkpoint = open_checkpoint("tests/fixtures/z3_bf16/checkpoint")
    >>> weight = checkpoint["embed.weight"]
    >>> weight.dtype, weight.load().shape == weight.shape
    (torch.float32, True)
    """
    return Checkpoint(open_catalog(src, tag))


def consolidate(
    src: Roots,
    out: Path,
    *,
    tag: str | None = None,
    overwrite: bool = False,
    restart: bool = False,
    check: str = "sample",
    replicas: str = "equal",
    weights_only: bool = False,
    digest: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[OptionKeywords],
) -> Report:
    """Turn the checkpoint `src` into the model directory `out`.

    What is written:

    - `dtype`: "fp32" (the masters, bit for bit), "bf16", "fp16", or "auto" (what the model was trained in); applies to
      parameters, never to buffers. Default "fp32".
    - `max_shard_size`: such as "5GB". Default None: one file.
    - `base`: directory of the original model: config, tokenizer and the like where the checkpoint has none, frozen
      parameters that were excluded from the save, the weights that adapters are merged into, and a witness of names.
    - `lora`: of a run with PEFT adapters, write the "adapter" (the default) as a directory PEFT loads, "merge" it into
      the full model, or "keep" the raw names. `adapters`: which of several, in the order of merging.
    - `exclude_frozen`, `include` and `exclude` (globs of names): which tensors.
    - `ties`: "drop" writes a tied parameter once, "copy" under all its names.
    - `names`: "hub" undoes wrappers by evidence and writes the hub's layout, "in-memory" keeps the layout that
      transformers 5 has in memory, "stored" changes nothing.
    - `rename`: `FROM=TO` rules, or a function from stored to output names. `allow_missing`: write even if a loader
      would miss parameters.
    - `sentence_transformers`: "cls", "mean" or "last" writes what SentenceTransformer needs, with that pooling.
    - `rescue`: write what can be had of an incomplete checkpoint, which is an error otherwise: whole tensors, copies in
      16 bits for lost masters, elements of the models in `fill`, and with "zeros" zeros for the rest; tensors that are
      still incomplete are left out. The report's `rescue` says what came from where.

    How: `src` may be several directories that hold one checkpoint together (node-local disks). `tag` chooses among
    several, "last-complete" the newest whole one. `check` compares masters with the 16-bit copies that most layouts
    have, and `base` with the frozen copies of an adapter run: "sample", "all" or "none". `replicas`: what several
    ranks hold must be "equal", or the "first" is taken and those that differ are named. `weights_only`: write the
    weights even if the optimizer's state is laid out in a way that is not understood. `digest`: "sha256" or "xxh3"
    puts one of every file and tensor into the manifest. `overwrite` replaces the model in `out` once the new one is
    complete.

    The output is complete or not there. A conversion that was stopped, killed included, goes on where it was when
    the same call is made again; with `restart` it begins anew. Raises what `open_checkpoint` raises, WitnessMismatch,
    WrongNames, OutputExists (also: in use), OutputFailed, BadOption (also: what is staged is another conversion).
    """
    began = time.monotonic()
    chosen = Options(**options)
    directory = os.path.normpath(os.fspath(out))
    opened = open_to_convert(src, tag, chosen)
    refuse_unplaced(opened.catalog, weights_only=weights_only)
    for root in {opened.catalog.origin.root, *roots_of(src)}:
        refuse_inside(directory, checkpoint=root, tag_directory=os.path.dirname(opened.catalog.files[0]))
    if digest is not None:
        maker(digest)
    output = plan_output(opened, chosen)
    made = make(
        output,
        opened,
        chosen,
        directory,
        overwrite=overwrite,
        restart=restart,
        check=check,
        replicas=replicas,
        digest=digest,
        progress=progress,
    )
    return report_of(output, opened, made, directory=directory, seconds=time.monotonic() - began)


def estimate(src: Roots, *, tag: str | None = None, **options: Unpack[OptionKeywords]) -> Cost:
    """What `consolidate` with the same options would read, write and need. Nothing is written."""
    chosen = Options(**options)
    return plan_weights(open_to_convert(src, tag, chosen), chosen).plan.cost(BLOCK_BYTES)
