"""Errors speak of keywords to callers from Python, of flags on the command line; all are at the top of the package."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
from command import zeroconsolidate as command
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate import errors
from zeroconsolidate.options.spoken import as_typed, keywords, to_python

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = FIXTURES / "z3_bf16/checkpoint"


@pytest.mark.parametrize(
    ("typed", "spoken"),
    [
        ("replace its model with --overwrite", "replace its model with overwrite=True"),
        (
            "--rescue=zeros writes all, --rescue only whole ones",
            'rescue="zeros" writes all, rescue=True only whole ones',
        ),
        ("values: not compared (--no-check)", 'values: not compared (check="none")'),
        ("write them fused with --names in-memory", 'write them fused with names="in-memory"'),
        ("name its directory with --base, and compare", "name its directory with base, and compare"),
        ("which has them: --base DIR", 'which has them: base="DIR"'),
        ("write a with --include 'a.*' --rename a.=", 'write a with include="a.*" rename="a.="'),
        ("--set-config a=1 --set-config b=2", 'set_config=["a=1", "b=2"]'),
        ("--max-shard-size none writes one file", "max_shard_size=None writes one file"),
        ("--tag last-complete takes t", 'tag="last-complete" takes t'),
        ("zeroconsolidate inspect --tag t RUN", "zeroconsolidate inspect --tag t RUN"),
        ("out/.zeroconsolidate has it, with --restart", "out/.zeroconsolidate has it, with restart=True"),
        ("--part 1/16 first, then --finish", "consolidate_part 1/16 first, then finish_parts"),
        ("--unheard-of stays, a--b too", "--unheard-of stays, a--b too"),
    ],
)
def test_sentences(typed: str, spoken: str) -> None:
    assert keywords(typed) == spoken


def test_an_error_speaks_of_either() -> None:
    error = errors.BadOption("--base is wrong", expected="--lora keep", remedy=("--overwrite", "nothing"))
    said = str(error)
    to_python(error)
    assert str(error) == 'base is wrong; expected lora="keep"; overwrite=True; nothing'
    to_python(error)  # once more, of a function that calls another
    as_typed(error)
    assert str(error) == said


def test_from_python_and_from_the_command(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    with pytest.raises(FileExistsError) as caught:
        zeroconsolidate.convert(CHECKPOINT, tmp_path)
    assert caught.value.remedy == "replace its model with overwrite=True"  # type: ignore[attr-defined]
    assert (caught.value.errno, caught.value.filename) == (17, str(tmp_path))
    done = command("convert", CHECKPOINT, tmp_path)
    assert "replace its model with --overwrite" in done.stderr
    as_json = command("convert", CHECKPOINT, tmp_path, "--json")
    assert "replace its model with --overwrite" in as_json.stdout


def test_errors_of_files_are_those_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        zeroconsolidate.inspect(tmp_path / "nowhere")
    assert (caught.value.errno, caught.value.filename) == (2, str(tmp_path / "nowhere"))


def test_all_are_at_the_top_in_one_tree() -> None:
    public = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, BaseException) and not name.startswith("_")
    }
    assert len(public) > 15
    for name, kind in public.items():
        assert getattr(zeroconsolidate, name) is kind
        assert issubclass(kind, zeroconsolidate.ZeroConsolidateError)
        assert name in (errors.__doc__ or "")


def test_dtypes_in_every_spelling(tmp_path: Path) -> None:
    import torch

    for given in ("bf16", "bfloat16", "torch.bfloat16", torch.bfloat16):
        assert zeroconsolidate.estimate(CHECKPOINT, dtype=given, names="stored").output_bytes
        assert zeroconsolidate.state_dict(CHECKPOINT, dtype=given)["embed.weight"].dtype is torch.bfloat16
