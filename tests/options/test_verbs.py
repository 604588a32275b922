"""What values options take, in which form they are kept, and what of them is recorded."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from command import python
from fixtures import FIXTURES

from zeroconsolidate import consolidate
from zeroconsolidate.errors import BadOption
from zeroconsolidate.integrations import hub
from zeroconsolidate.options import Options, VerifyOptions


class TestDtype:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (torch.float32, "fp32"), (torch.bfloat16, "bf16"), (torch.float16, "fp16"), ("float32", "fp32"),
            ("torch.bfloat16", "bf16"), ("half", "fp16"), ("BF16", "bf16"), ("auto", "auto"),
        ],
    )  # fmt: skip
    def test_torchs_dtypes_and_every_spelling_are_one(self, given: Any, kept: str) -> None:
        assert Options(dtype=given).dtype == kept
        assert Options(dtype=given) == Options(dtype=kept)

    @pytest.mark.parametrize("given", [torch.int8, "int4", None, 16, ["bf16"]])
    def test_others_are_refused(self, given: Any) -> None:
        with pytest.raises(BadOption, match="the dtype is not one of fp32, bf16, fp16, auto; got"):
            Options(dtype=given)

    def test_torchs_dtype_makes_the_same_bytes(self, tmp_path: Path) -> None:
        for name, dtype in (("text", "bf16"), ("torch", torch.bfloat16)):
            assert consolidate(FIXTURES / "z3_bf16/checkpoint", tmp_path / name, dtype=dtype).dtype == "bfloat16"
        for path in (tmp_path / "text").iterdir():
            assert path.read_bytes() == (tmp_path / "torch" / path.name).read_bytes()

    def test_it_needs_no_torch(self) -> None:
        code = "import sys; from zeroconsolidate.options import Options; Options(dtype='torch.bfloat16')"
        assert python(f"{code}; print('torch' in sys.modules)").stdout == "False\n"


class TestValues:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"ties": "both"}, "ties must be 'drop' or 'copy'; got 'both'"),
            ({"lora": "yes"}, "lora must be 'adapter', 'merge' or 'keep'; got 'yes'"),
            ({"check": True}, "check must be 'sample', 'all' or 'none'; got True"),
            ({"replicas": None}, "replicas must be 'equal' or 'first'; got None"),
            ({"digest": "md5"}, "digest must be 'sha256' or 'xxh3'; got 'md5'"),
            ({"sentence_transformers": "max"}, "sentence_transformers must be 'cls', 'mean' or 'last'; got 'max'"),
            # A text is true, whatever it says.
            ({"exclude_frozen": "false"}, "exclude_frozen must be False or True; got 'false'"),
            ({"overwrite": "no"}, "overwrite must be False or True; got 'no'"),
            ({"rescue": "zero"}, "rescue must be False, True or 'zeros'; got 'zero'"),
            ({"include": 5}, "include must be a string or several; got 5"),
            ({"exclude": [5]}, r"exclude must be a string or several; got \[5\]"),
            ({"max_shard_size": "big"}, "a size is a number with B, KB, MB, GB or TB"),
            ({"max_shard_size": "5"}, "a size needs a unit"),
            ({"fill": "model"}, "--fill is used only with --rescue"),
        ],
    )
    def test_what_is_none_is_refused_before_anything_is_read(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(BadOption, match=message):
            Options(**given)

    def test_one_text_is_not_a_sequence_of_letters(self) -> None:
        options = Options(include="layers.*", adapters="default", rename="a=b", rescue=True, fill=PurePosixPath("x"))
        assert (options.include, options.adapters, options.rename) == (("layers.*",), ("default",), ("a=b",))
        assert options.fill == (PurePosixPath("x"),)
        assert VerifyOptions(against="checkpoint").against == ("checkpoint",)

    def test_a_size_is_a_text_with_a_unit_or_a_number_of_bytes(self) -> None:
        sizes = {"5GB": 5 * 10**9, "5GiB": 5 << 30, 5: 5, "none": None, None: None}
        assert {given: Options(max_shard_size=given).max_shard_bytes for given in sizes} == sizes
        assert Options().max_shard_bytes == 50 * 10**9
        assert Options(max_shard_size="none") == Options(max_shard_size=None)

    def test_one_pattern_chooses_what_it_matches(self, tmp_path: Path) -> None:
        """Taken letter by letter, its `*` would choose everything."""
        report = consolidate(FIXTURES / "z3_bf16/checkpoint", tmp_path / "out", include="embed.*")
        assert report.tensors == 1


class TestBase:
    def test_it_is_looked_up_when_it_is_needed_and_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def resolved(base: str) -> str:
            asked.append(base)
            return "/snapshot"

        monkeypatch.setattr(hub, "resolved", resolved)
        options = Options(base="owner/name")
        assert asked == []
        assert [options.base_directory, options.plain()["base"], options.base_directory] == ["/snapshot"] * 3
        assert asked == ["owner/name"]
        assert Options().base_directory is None


EVERYTHING: dict[str, Any] = {
    "dtype": "bf16", "max_shard_size": "5GB", "base": None, "lora": "merge", "adapters": ["one"],
    "base_differs": True, "exclude_frozen": True, "ties": "copy", "include": ["a*"], "exclude": ["b*"],
    "names": "stored",
    "rename": ["c=d"], "allow_missing": True, "set_config": ["n=1"], "sentence_transformers": "cls",
    "rescue": "zeros", "fill": ["/e/f"], "optimizer": True, "reflink": "always",
    "average": None, "last": None, "transforms": [], "model_card": False, "quantize": None, "quantize_skip": [],
}  # fmt: skip
"""As manifests have listed them since the first, in this order; what is new comes last."""


class TestRecord:
    def test_the_manifest_lists_what_it_always_has(self) -> None:
        options = Options(**EVERYTHING, tag="global_step1", overwrite=True, check="all", digest="sha256")
        record = options.for_manifest()
        assert record == EVERYTHING | {"fill": ["f"]}
        assert list(record) == list(EVERYTHING)
        assert options.plain() == EVERYTHING | {"digest": "sha256"}
        assert json.loads(json.dumps(record)) == record

    def test_directories_by_their_last_name(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        options = Options(base=tmp_path / "model" / "..", rescue=True, fill=tmp_path / "model")
        assert options.plain()["base"] == str(tmp_path)
        assert options.plain()["fill"] == [str(tmp_path / "model")]
        assert (options.for_manifest()["base"], options.for_manifest()["fill"]) == (tmp_path.name, ["model"])

    def test_a_function_by_its_name(self) -> None:
        assert Options(rename=json.dumps).plain()["rename"] == "json.dumps"
        assert Options(rename=str.lower).plain()["rename"] == "builtins.str.lower"
        assert Options(rename=partial(json.dumps)).plain()["rename"] == "functools.callable"

    def test_what_chooses_and_names_tensors_comes_back(self) -> None:
        record = Options(**EVERYTHING).for_manifest()
        back = Options.from_manifest(record, tag="last-complete", base="base")
        assert (back.lora, back.adapters, back.exclude_frozen, back.names) == ("merge", ("one",), True, "stored")
        assert (back.include, back.exclude, back.rename, back.allow_missing) == (("a*",), ("b*",), ("c=d",), True)
        assert (back.dtype, back.ties, back.tag, back.base) == ("bf16", "copy", "last-complete", "base")
        assert (back.rescue, back.fill, back.max_shard_size, back.sentence_transformers) == (False, (), "50GB", None)

    def test_a_dtype_comes_back_only_for_a_merge_and_a_function_never(self) -> None:
        record = Options(dtype="bf16", rename=json.dumps).for_manifest()
        back = Options.from_manifest(record, tag=None, base=None)
        assert (back.dtype, back.rename) == ("fp32", None)

    @pytest.mark.parametrize("forged", [{"include": 5}, {"names": ["hub"]}, {"lora": {}}, {"allow_missing": "yes"}])
    def test_a_forged_record_is_refused(self, forged: dict[str, Any]) -> None:
        with pytest.raises(BadOption):
            Options.from_manifest(forged, tag=None, base=None)
