"""The ways in which the checkpoint of a case is converted, and what comes of each."""

from __future__ import annotations

import re
import shutil
import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from . import adapters, judge, models
from .known import Known, NoOracleError

if TYPE_CHECKING:
    from pathlib import Path

    from .case import Case

OPTIONS: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": "bf16"},
    "sharded": {"max_shard_size": "4KB"},
    "copies": {"ties": "copy"},
    "in-memory": {"names": "in-memory"},
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one conversion."""

    number: int
    way: str
    verdict: str
    """`right`, `refused`, `wrong`, `crashed`; `not made` if PEFT or DeepSpeed would not have the case, `not judged` if
    nobody knows what would be right."""
    reason: str
    verified: bool | None
    """What `verify` says of the output."""
    expected: str
    """Why a refusal is the right answer, or one of them; nothing if it could be done."""
    case: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def ways(case: Case, *, has_base: bool) -> dict[str, dict[str, Any]]:
    """Name -> options. `{base}` stands for the original."""
    if case.adapter is not None:
        found: dict[str, dict[str, Any]] = {"adapter": {}}
        merge: dict[str, Any] = {"lora": "merge"} | ({"adapters": ["default"]} if case.second else {})
        if has_base:
            found["merge with base"] = merge | {"base": "{base}"}
        if not case.exclude_frozen:
            found["merge"] = merge
        return found
    found = {"model": {}}
    if has_base and (case.exclude_frozen or case.unoptimized or case.config == "none"):
        found["model with base"] = {"base": "{base}"}
    if case.way in OPTIONS:
        found[case.way] = OPTIONS[case.way]
    return found


def refusable(case: Case, way: str) -> str:
    """Why a refusal would be right."""
    with_base = "base" in way
    if {"two", "teacher", "teacher_first"} & set(case.outer):
        return "two models of the same names"
    if case.inner == "parametrize":
        return "parametrized layers"
    if case.adapter is not None:
        if case.adapter["kind"] in adapters.PROMPTS and way != "adapter":
            return "prompts cannot be merged"
        if case.adapter["kind"] in adapters.UNWRITTEN:
            return "what PEFT's file holds is not in the checkpoint, or computed"
        if case.adapter.get("init_lora_weights") in ("pissa", "olora") and case.exclude_frozen and way != "adapter":
            return "the base the adapter belongs to is lost"
        if way == "merge" and case.config == "none":
            return "there is no config.json"
        trained = (*case.adapter.get("modules_to_save", ()), *case.adapter.get("extra_targets", ()))
        if way != "adapter" and case.added_rows and case.exclude_frozen and _lacks_rows(case, trained):
            return "new rows of a frozen embedding are lost"
        return ""
    if not with_base and case.exclude_frozen and case.freeze != "none":
        return "frozen parameters are lost"
    if not with_base and case.unoptimized and case.stage == 3:
        return "parameters without optimizer are lost"
    if case.config == "base" and (case.head != case.base_head or case.added_rows):
        return "config.json is another model's"
    if case.untied:
        return "config.json ties what the run untied"
    if {"projection", "value_head", "dense"} & set(case.outer):
        return "trained beside the model"
    return "fused experts without config.json" if case.config == "none" and "mo" in case.model else ""


def _lacks_rows(case: Case, trained: tuple[str, ...]) -> bool:
    """Whether rows that the run added to embedding or head were frozen and not saved, and something shows it."""
    model = models.MODELS[case.model]
    saved = case.adapter.get("modules_to_save", ()) if case.adapter else ()
    grown = {model.embedding, *(name for name in model.heads.get(case.head, ()) if name == "lm_head")} - {None, ""}
    return not grown <= set(saved) and (bool(grown & set(trained)) or case.config == "own")


def outcomes(case: Case, folder: Path, scratch: Path) -> list[Outcome]:
    """Convert the case in every way, and judge each."""
    failed = folder / "failed.txt"
    if failed.exists():
        reason = failed.read_text().strip().splitlines()[-1][:300]
        return [_outcome(case, "", "not made", reason, None)]
    known = Known.read(case, folder)
    has_base = bool(models.MODELS[case.model].config)
    return [
        _convert(case, folder, scratch, way, options, known) for way, options in ways(case, has_base=has_base).items()
    ]


def _convert(case: Case, folder: Path, scratch: Path, way: str, options: dict[str, Any], known: Known) -> Outcome:
    from zeroconsolidate import consolidate, verify
    from zeroconsolidate.errors import ZeroConsolidateError

    out = scratch / "output"
    shutil.rmtree(out, ignore_errors=True)
    options = {key: str(folder / "base") if value == "{base}" else value for key, value in options.items()}
    try:
        report = consolidate(folder / "ckpt", out, check="all", **options)
    except ZeroConsolidateError as error:
        return _outcome(case, way, "refused", f"{type(error).__name__}: {error}", None)
    except Exception:
        return _outcome(case, way, "crashed", traceback.format_exc().strip().splitlines()[-1], None)
    try:
        wrong = judge.judge(known, out, report, options)
    except NoOracleError as error:
        return _outcome(case, way, "not judged", str(error), None)
    except Exception:
        return _outcome(case, way, "crashed", "the judge: " + traceback.format_exc()[-600:], None)
    verified = verify(out).ok
    if wrong:
        return _outcome(case, way, "wrong", wrong, verified)
    return _outcome(case, way, "right", "" if verified else f"but verify: {verify(out).problems[0]}", verified)


def _outcome(case: Case, way: str, verdict: str, reason: str, verified: bool | None) -> Outcome:
    return Outcome(
        number=case.number,
        way=way,
        verdict=verdict,
        reason=reason,
        verified=verified,
        expected=refusable(case, way),
        case=str(case),
    )


_VARIES = (
    (re.compile(r"\(at [^)]*\)"), ""),
    (re.compile(r"/\S+"), "PATH"),
    (re.compile(r"'[^']*'"), "'…'"),
    (re.compile(r"\b[\w]+(\.[\w]+)+\b"), "NAME"),
    (re.compile(r"\[[0-9, ]*\]|\([0-9, ]*\)"), "SHAPE"),
    (re.compile(r"[0-9]+"), "N"),
)


def kind(reason: str) -> str:
    """A reason without what differs from case to case."""
    for pattern, instead in _VARIES:
        reason = pattern.sub(instead, reason)
    return reason[:160]
