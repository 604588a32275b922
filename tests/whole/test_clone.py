"""Outputs whose bytes are the checkpoint's own blocks on the disk, on a disk that only pretends to share any.

It has small blocks, so that something of every fixture is cloned. What real file systems do is in test_clone_disks.py.
"""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import live_values
import pytest
import torch
from cloned import checkpoint_in, consolidate, tensors
from disks import pretend
from fixtures import FIXTURES
from folders import contents
from safetensors import safe_open
from safetensors.torch import load_file

import zeroconsolidate
from zeroconsolidate.errors import BadOption, DamagedFile, OutputFailed
from zeroconsolidate.opening.opened import open_to_convert
from zeroconsolidate.options import Options
from zeroconsolidate.outputs.planned import plan_weights
from zeroconsolidate.outputs.sharing import means_of
from zeroconsolidate.plan import congruent
from zeroconsolidate.run import clone, local_output
from zeroconsolidate.run.local import LocalFiles
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from pathlib import Path

MB = 1 << 20
BLOCK_BYTES = 64
CASES = sorted(path.parent for path in FIXTURES.glob("*/provenance.json"))
NOT_CLONED = {
    "z2_legacy": "before torch 1.6 tensors began at any byte of a file, where no loader maps them",
    "z3_w12": "no stripe has 64 bytes",
}


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares blocks, and models of kilobytes are cloned, too."""
    pretend(monkeypatch, BLOCK_BYTES)
    monkeypatch.setattr(congruent, "LEAST_FILE_BYTES", 1)
    monkeypatch.setattr(congruent, "LEAST_SHARE", 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


class TestTheSameTensors:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_as_in_the_engine(self, case: Path, tmp_path: Path) -> None:
        report = consolidate(case / "checkpoint", tmp_path / "out", check="all")
        written: dict[str, torch.Tensor] = {}
        for path in (tmp_path / "out").glob("*.safetensors"):
            written |= load_file(path)
        live_values.assert_same(written, live_values.expected(case, torch.float32))
        assert zeroconsolidate.verify(tmp_path / "out", against=case / "checkpoint").ok
        assert sum(path.stat().st_size for path in (tmp_path / "out").glob("model*")) == report.bytes_written
        assert (report.cloned_bytes > 0) == (case.name not in NOT_CLONED)


class TestNotWorthIt:
    def test_small_models_are_laid_out_as_always(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        checkpoint = checkpoint_in(place, stage=3)
        report = consolidate(checkpoint, place / "out")
        consolidate(checkpoint, place / "copied", reflink="never")
        assert report.cloned_bytes == 0
        assert tensors(place / "out") == tensors(place / "copied")
        assert (place / "out/model.safetensors").read_bytes() == (place / "copied/model.safetensors").read_bytes()

    def test_what_is_cast_cannot_be_cloned(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, 512)  # which is more than the only buffer has
        checkpoint = checkpoint_in(place, stage=3)
        assert consolidate(checkpoint, place / "out", dtype="bf16").cloned_bytes == 0
        with pytest.raises(BadOption, match="nothing of this output can be cloned"):
            consolidate(checkpoint, place / "other", dtype="bf16", reflink="always")
        assert not (place / "other").exists()

    def test_adapters_are_small(self, place: Path) -> None:
        case = FIXTURES / "models/lora_z3"
        assert zeroconsolidate.consolidate(case / "checkpoint", place / "out").cloned_bytes == 0
        with pytest.raises(BadOption, match="nothing of this output can be cloned"):
            zeroconsolidate.consolidate(case / "checkpoint", place / "other", reflink="always")


class TestOptimizer:
    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    @pytest.mark.parametrize("stage", [2, 3])
    def test_what_it_keeps_is_cloned_too(self, place: Path, stage: int, dtype: str) -> None:
        """Also beside weights that are cast."""
        checkpoint = FIXTURES / f"models/llm_tied_z{stage}/checkpoint"
        report = consolidate(checkpoint, place / "out", optimizer=True, dtype=dtype)
        consolidate(checkpoint, place / "copied", optimizer=True, dtype=dtype, reflink="never")
        kept = sum(path.stat().st_size for path in (place / "out/optimizer").glob("*.safetensors"))
        weights = sum(path.stat().st_size for path in (place / "out").glob("*.safetensors"))
        assert report.cloned_bytes > 0.5 * (kept + weights * (dtype == "fp32"))
        assert (
            zeroconsolidate.estimate(
                checkpoint, place / "other", names="stored", optimizer=True, dtype=dtype
            ).cloned_bytes
            == report.cloned_bytes
        )
        for part_of in ("", "optimizer"):
            assert tensors(place / "out" / part_of) == tensors(place / "copied" / part_of)

    def test_shards_have_an_index(self, place: Path) -> None:
        checkpoint = FIXTURES / "models/llm_tied_z3/checkpoint"
        consolidate(checkpoint, place / "out", optimizer=True, max_shard_size="30KB")
        index = json.loads((place / "out/optimizer/optimizer.safetensors.index.json").read_text())
        shards = sorted(path.name for path in (place / "out/optimizer").glob("*.safetensors"))
        assert sorted(set(index["weight_map"].values())) == shards
        assert len(shards) > 1


class TestMerged:
    def test_what_no_adapter_touches_is_cloned_from_the_base(self, place: Path) -> None:
        checkpoint, base = FIXTURES / "models/lora_z3/checkpoint", FIXTURES / "models/_bases/llama"
        report = zeroconsolidate.consolidate(checkpoint, place / "out", lora="merge", base=base)
        zeroconsolidate.consolidate(checkpoint, place / "copied", lora="merge", base=base, reflink="never")
        assert report.cloned_bytes > 0
        assert tensors(place / "out") == tensors(place / "copied")


class TestNever:
    @pytest.mark.parametrize("reflink", ["auto", "never"])
    def test_leaves_nothing_to_the_kernel_which_shares_what_it_can(self, place: Path, reflink: str) -> None:
        opened = open_to_convert(str(FIXTURES / "z3_bf16/checkpoint"), Options(names="stored"))
        plan = plan_weights(opened, Options(names="stored")).plan
        means = means_of(plan, Options(reflink=reflink))
        (place / "in").write_bytes(os.urandom(MB))
        with LocalFiles() as files, (place / "out").open("w+b") as file:
            output = local_output.LocalOutput("out", file.fileno(), start=0, means=means)
            assert (output.copy_from(files, str(place / "in"), 0, MB, 0) == 0) == (reflink == "never")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system has no posix_fadvise")
@pytest.mark.parametrize("reflink", ["auto", "never"])
def test_the_kernel_is_asked_for_nothing_that_is_cloned(
    place: Path, reflink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to read it beforehand, nor to write it back: it is not read, and has no dirty pages."""
    asked: dict[tuple[str, int], int] = {}
    real = os.posix_fadvise

    def advise(fd: int, start: int, size_bytes: int, advice: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        asked[name, advice] = asked.get((name, advice), 0) + size_bytes
        real(fd, start, size_bytes, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(local_output, "_WRITEBACK_BYTES", MB)
    report = consolidate(checkpoint_in(place, stage=3, megabytes=6), place / "out", reflink=reflink, check="none")
    read_ahead = [size for (name, advice), size in asked.items()
                  if name.endswith("optim_states.pt") and advice == os.POSIX_FADV_WILLNEED]  # fmt: skip
    written_back = [size for (name, advice), size in asked.items()
                    if name.startswith("model") and advice == os.POSIX_FADV_DONTNEED]  # fmt: skip
    if reflink == "never":
        assert report.cloned_bytes == 0
        assert sum(read_ahead) > 4 * MB
        assert sum(written_back) > 3 * MB
    else:
        assert report.cloned_bytes > 4 * MB
        assert not read_ahead
        assert not written_back


class TestTheCall:
    """What the file system answers to FICLONERANGE."""

    @pytest.mark.parametrize("number", sorted(clone.CANNOT), ids=lambda number: errno.errorcode[number])
    def test_what_cannot_be_cloned_is_copied(self, place: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = checkpoint_in(place, stage=3, megabytes=6)
        straight = consolidate(checkpoint, place / "straight")
        calls = refusing(monkeypatch, number)
        report = consolidate(checkpoint, place / "out")
        assert straight.cloned_bytes > 0 == report.cloned_bytes
        assert {file for _, file in calls} == set(range(4))
        assert contents(place / "out") == contents(place / "straight")

    def test_one_rank_that_cannot_is_copied_and_the_others_are_cloned(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = checkpoint_in(place, stage=3, megabytes=6)
        straight = consolidate(checkpoint, place / "straight")
        refusing(monkeypatch, errno.EPERM, only=2)
        report = consolidate(checkpoint, place / "out")
        assert 0.7 < report.cloned_bytes / straight.cloned_bytes < 0.8
        assert tensors(place / "out") == tensors(place / "straight")

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_what_fails_is_an_error(self, place: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = checkpoint_in(place, stage=2, megabytes=6)
        consolidate(checkpoint, place / "straight")
        with monkeypatch.context() as patch:
            refusing(patch, number, after=5)
            with pytest.raises(OutputFailed) as raised:
                consolidate(checkpoint, place / "out")
        assert raised.value.errno == number
        consolidate(checkpoint, place / "out")
        assert contents(place / "out") == contents(place / "straight")

    def test_an_interrupted_call_is_made_again(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made, real = [], clone.fcntl.ioctl

        def ioctl(*arguments: Any) -> Any:
            made.append(arguments)
            if len(made) % 2:
                raise InterruptedError
            return real(*arguments)

        checkpoint = checkpoint_in(place, stage=3, megabytes=6)
        straight = consolidate(checkpoint, place / "straight")
        monkeypatch.setattr(clone.fcntl, "ioctl", ioctl)
        assert consolidate(checkpoint, place / "out").cloned_bytes == straight.cloned_bytes
        assert contents(place / "out") == contents(place / "straight")

    def test_always_fails_where_one_block_cannot(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = checkpoint_in(place, stage=3, megabytes=6)
        refusing(monkeypatch, errno.ETXTBSY, after=3)
        with pytest.raises(OutputFailed, match="the file system does not share blocks of this file: text file busy"):
            consolidate(checkpoint, place / "out", reflink="always")
        assert not (place / "out").exists()

    @pytest.mark.parametrize("reflink", ["auto", "always"])
    def test_a_source_that_has_become_shorter_is_damaged(self, place: Path, reflink: str) -> None:
        checkpoint = checkpoint_in(place, stage=3, megabytes=6)
        last = max(checkpoint.rglob("*optim_states.pt"))

        def shorten(what: str) -> None:
            if what == "copying":
                os.truncate(last, MB)

        with pytest.raises(DamagedFile, match="the file was changed while it was being read"):
            consolidate(checkpoint, place / "out", status=shorten, reflink=reflink)


def refusing(
    patch: pytest.MonkeyPatch, number: int, *, after: int = 0, only: int | None = None
) -> list[tuple[int, int]]:
    """Have calls fail, all after so many or those of one rank; returns (call, rank) of each, the module's is -1."""
    real, calls = local_output.clone, list[tuple[int, int]]()

    def clone(source: int, *ranges: int) -> None:
        rank = int(os.readlink(f"/proc/self/fd/{source}").partition("zero_pp_rank_")[2].partition("_")[0] or -1)
        calls.append((len(calls), rank))
        if len(calls) > after and only in (None, rank):
            raise OSError(number, os.strerror(number))
        real(source, *ranges)

    patch.setattr(local_output, "clone", clone)
    return calls


class TestInterrupted:
    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(part, "SYNC_BYTES", 4 << 10)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("later", ["shares as before", "shares no more", "cannot be probed"])
    def test_goes_on_with_the_layout_it_has_begun(
        self, place: Path, share: float, later: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = checkpoint_in(place, stage=3, megabytes=6)
        straight = consolidate(checkpoint, place / "straight", digest="sha256")

        def stop(done: int, total: int) -> None:
            if done > share * total:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            consolidate(checkpoint, place / "out", digest="sha256", progress=stop)
        if later == "shares no more":
            refusing(monkeypatch, errno.EOPNOTSUPP)
        if later == "cannot be probed":
            monkeypatch.setattr("zeroconsolidate.outputs.sharing.probe", None)
        report = consolidate(checkpoint, place / "out", digest="sha256")
        assert report.resumed_bytes >= share * report.bytes_written - 64 * 1024
        assert contents(place / "out") == contents(place / "straight")
        if later == "shares no more":
            assert 0 < report.cloned_bytes < straight.cloned_bytes
        else:
            assert straight.cloned_bytes - 16 * 1024 <= report.cloned_bytes <= straight.cloned_bytes
        assert zeroconsolidate.verify(place / "out").ok

    def test_another_choice_is_another_conversion(self, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=3, megabytes=6)

        def stop(done: int, total: int) -> None:
            if done > total / 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            consolidate(checkpoint, place / "out", progress=stop)
        with pytest.raises(BadOption, match="reflink was 'auto', is 'never'"):
            consolidate(checkpoint, place / "out", reflink="never")
        assert consolidate(checkpoint, place / "out", reflink="never", restart=True).cloned_bytes == 0


class TestReaders:
    def test_every_shard_is_as_hugging_face_wants_it(self, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=3, ranks=8)
        report = consolidate(checkpoint, place / "out", max_shard_size="8MB")
        index = json.loads((place / "out/model.safetensors.index.json").read_text())
        shards = sorted(path.name for path in (place / "out").glob("*.safetensors"))
        count = len(shards)
        assert report.cloned_bytes
        assert shards == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
        assert sorted(set(index["weight_map"].values())) == shards
        for shard in shards:
            data = (place / "out" / shard).read_bytes()
            begin = 8 + int.from_bytes(data[:8], "little")
            header = json.loads(data[8:begin])
            assert header.pop("__metadata__") == {"format": "pt"}
            assert len(data) - begin <= 8_000_000 or len(header) == 1
            here = 0
            for name, entry in header.items():
                assert index["weight_map"][name] == shard
                assert entry["data_offsets"][0] == here
                assert (begin + here) % {"F32": 4, "I64": 8}[entry["dtype"]] == 0
                here = entry["data_offsets"][1]
            assert begin + here == len(data)

    def test_the_hub_reads_the_headers(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        api = pytest.importorskip("huggingface_hub.hf_api")
        checkpoint = checkpoint_in(place, stage=3)
        consolidate(checkpoint, place / "out")
        served = Served(place / "out")
        monkeypatch.setattr(api, "get_session", lambda: served)
        assert list((place / "out").glob("*.safetensors"))
        for path in (place / "out").glob("*.safetensors"):
            found = api.HfApi(token=False).parse_safetensors_file_metadata("some/model", path.name)
            assert set(found.tensors) == set(load_file(path))

    @pytest.mark.parametrize("case", ["llm_tied_z2", "llm_untied_z3"])
    def test_transformers_loads_all(self, place: Path, case: str) -> None:
        transformers = pytest.importorskip("transformers")
        loaded = {}
        for reflink in ("auto", "never"):
            report = zeroconsolidate.consolidate(
                FIXTURES / "models" / case / "checkpoint", place / reflink, reflink=reflink
            )
            assert (report.cloned_bytes > 0) == (reflink == "auto")
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                place / reflink, output_loading_info=True, dtype=torch.float32
            )
            assert not any(told.values())
            loaded[reflink] = model.state_dict()
        live_values.assert_same(loaded["auto"], loaded["never"])

    def test_numpy_and_torch_see_the_same(self, place: Path) -> None:
        checkpoint = checkpoint_in(place, stage=2)
        consolidate(checkpoint, place / "out")
        assert list((place / "out").glob("*.safetensors"))
        for path in (place / "out").glob("*.safetensors"):
            with safe_open(path, "pt") as torch_file, safe_open(path, "np") as numpy_file:
                for name in torch_file.keys():  # noqa: SIM118  (it is not a mapping)
                    mapped = torch_file.get_tensor(name)
                    assert mapped.numpy().tobytes() == numpy_file.get_tensor(name).tobytes()
                    assert torch.equal(torch_file.get_slice(name)[:1], mapped[:1])


class Served:
    """A hub that serves a folder, to the one request that its client makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, url: str, headers: dict[str, str], **_: Any) -> Any:
        data = (self.folder / url.rpartition("/")[2]).read_bytes()
        first, last = map(int, headers["range"].removeprefix("bytes=").split("-"))
        return Answer(data[first : last + 1])


class Answer:
    status_code = 206

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.headers: dict[str, str] = {}

    def raise_for_status(self) -> None:
        pass
