"""Checkpoints and outputs in Azure's store, as Microsoft's emulator has it: the same bytes as on a disk, whatever the
server does, or an error that says what is wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("adlfs", reason="needs a client: sh tools/test_stores.sh")

import torchless
from azurite_server import (
    ACCOUNT,
    DENIED,
    MD5_MISMATCH,
    PROGRAM,
    SERVER_BUSY,
    SERVER_ERROR,
    Azurite,
    azurite_server,
    connection_string,
)  # fmt: skip
from executors import Here
from failing_proxy import DROPPED, Fault, Request, some
from fixtures import FIXTURES
from small_uploads import PART

import zeroconsolidate
from zeroconsolidate.errors import BadOption, DamagedFile, NotACheckpoint, OutputFailed, StoreFailed
from zeroconsolidate.integrations import azure_uploads, object_stores, store_calls
from zeroconsolidate.integrations.object_uploads import uploads_to
from zeroconsolidate.outputs import spread
from zeroconsolidate.write import remote_portion, remote_spread, remote_stage, uploads
from zeroconsolidate.write.staging import abort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if not PROGRAM.exists() or shutil.which("node") is None:
    pytest.skip("needs azurite: sh tools/test_stores.sh, with npm on PATH", allow_module_level=True)

CHECKPOINT = FIXTURES / "trainer_zero3_tied/checkpoint"
STAGED = "model/.zeroconsolidate/"
TRUNCATED = Fault(keep_bytes=100)


@pytest.fixture(scope="module")
def server() -> Iterator[Azurite]:
    with azurite_server() as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(store.endpoint))
        object_stores._store.cache_clear()
        yield store
        object_stores._store.cache_clear()


@pytest.fixture
def azure(server: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azurite]:
    """The server, which does not fail unless a test says so, and is asked again soon. 56 KB of weights are seven parts
    of an upload."""
    monkeypatch.setattr(store_calls, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(store_calls, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(store_calls, "DEADLINE_SECONDS", 20)
    for module in (uploads, remote_stage, remote_portion, remote_spread):
        monkeypatch.setattr(module, "part_bytes_of", lambda _: PART)
    monkeypatch.setattr(uploads, "NOTED_BYTES", PART)
    monkeypatch.setattr(spread, "LEAST_BYTES", PART)
    object_stores.store_of("az://runs").forget()
    yield server
    server.rule = lambda _: None
    server.empty()
    server.requests.clear()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the conversion makes on a disk."""
    folder = tmp_path_factory.mktemp("here") / "model"
    zeroconsolidate.consolidate(CHECKPOINT, folder)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(azure: Azurite, here: Path) -> None:
    """The container has the files of a directory and nothing else: no block, nothing staged."""
    there = azure.objects("model/")
    assert {name.removeprefix("model/"): azure.get(name) for name in there} == files_in(here)
    assert azure.uploads() == []


def visible(azure: Azurite) -> set[str]:
    return {name for name in azure.objects("model/") if not name.startswith(STAGED)}


def block_of(request: Request) -> int | None:
    """The number of the block that is sent, by the end of its id."""
    import base64

    if request.query.get("comp") != ["block"]:
        return None
    return int(base64.b64decode(request.query["blockid"][0])[-8:])


def refusing(*numbers: int) -> Callable[[Request], Fault | None]:
    """Blocks with these numbers are refused: credentials have expired."""
    return lambda request: DENIED if block_of(request) in numbers else None


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zeroconsolidate", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """What a command says that fails as it should: briefly."""
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "RequestId" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    return done.stderr


class TestReading:
    def test_a_checkpoint(self, azure: Azurite, here: Path, tmp_path: Path) -> None:
        url = azure.put(CHECKPOINT, "run")
        azure.put(FIXTURES / "z2_w4/checkpoint", "run-2")  # begins alike
        assert zeroconsolidate.inspect(url).parameters == zeroconsolidate.inspect(CHECKPOINT).parameters
        name = "model.embed_tokens.weight"
        value = zeroconsolidate.open_checkpoint(url)[name].numpy()
        assert (value == zeroconsolidate.open_checkpoint(CHECKPOINT)[name].numpy()).all()
        zeroconsolidate.consolidate(url, tmp_path / "there")
        there, expected = files_in(tmp_path / "there"), files_in(here)
        del there["zeroconsolidate.json"], expected["zeroconsolidate.json"]  # it has the times of local files
        assert there == expected
        assert zeroconsolidate.verify(tmp_path / "there", against=url).ok
        assert zeroconsolidate.verify_source(url).ok
        assert zeroconsolidate.compare(url, here).equal

    def test_an_account_in_the_url(self, azure: Azurite) -> None:
        azure.put(CHECKPOINT, "run")
        expected = zeroconsolidate.inspect(CHECKPOINT).parameters
        for url in (f"abfss://runs@{ACCOUNT}.dfs.core.windows.net/run", "abfs://runs/run"):
            assert zeroconsolidate.inspect(url).parameters == expected
        with pytest.raises(BadOption, match=f"for another account than the URL names; expected other, got {ACCOUNT}"):
            zeroconsolidate.inspect("abfss://runs@other.dfs.core.windows.net/run")

    def test_blobs_that_stand_for_folders(self, azure: Azurite, tmp_path: Path) -> None:
        """Accounts with a hierarchy list each folder as an empty blob with a mark."""
        url = azure.put(CHECKPOINT, "run")
        folders = {path.relative_to(CHECKPOINT).as_posix() for path in CHECKPOINT.rglob("*") if path.is_dir()}
        for folder in ["run", *(f"run/{folder}" for folder in folders)]:
            azure.write(folder, b"", {"hdi_isfolder": "true"})
        store = object_stores.store_of(url)
        assert store.look(url).is_folder
        assert {name for name, item in store.entries(url).items() if item.is_folder} == folders
        assert set(store.tree(url)) == set(files_in(CHECKPOINT))
        zeroconsolidate.consolidate(url, tmp_path / "there")
        assert zeroconsolidate.verify(tmp_path / "there", against=CHECKPOINT).ok

    @pytest.mark.parametrize(
        "faults",
        [[SERVER_ERROR], [SERVER_BUSY], [DROPPED], [SERVER_ERROR, SERVER_BUSY, DROPPED, TRUNCATED]],
        ids=["500", "503", "dropped", "all"],
    )
    def test_a_store_that_fails_now_and_then(
        self, faults: list[Fault], azure: Azurite, here: Path, tmp_path: Path
    ) -> None:
        url = azure.put(CHECKPOINT, "run")
        azure.rule = some(0.25, faults)
        zeroconsolidate.consolidate(url, tmp_path / "there")
        assert (tmp_path / "there/model.safetensors").read_bytes() == (here / "model.safetensors").read_bytes()
        assert sum(request.range is not None for request in azure.requests) > 4

    def test_a_store_that_is_down(self, azure: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
        url = azure.put(CHECKPOINT, "run")
        monkeypatch.setattr(store_calls, "DEADLINE_SECONDS", 0.3)
        azure.rule = lambda _: SERVER_BUSY
        with pytest.raises(StoreFailed, match=r"does not answer: .*ServerBusy.*run the same command again"):
            zeroconsolidate.inspect(url)
        assert len(azure.requests) > 4  # the client itself would have waited 15 s before the second

    def test_no_more_is_requested_than_is_needed(self, azure: Azurite, tmp_path: Path) -> None:
        torchless.write(tmp_path / "large", torchless.values_of(60), ranks=3)
        url = azure.put(tmp_path / "large", "large")
        zeroconsolidate.consolidate(tmp_path / "large", tmp_path / "here")
        report = zeroconsolidate.consolidate(url, tmp_path / "there")
        assert report.bytes_written > 50e6
        assert report.bytes_written <= azure.read_bytes <= 1.02 * report.bytes_written
        assert (tmp_path / "there/model.safetensors").read_bytes() == (tmp_path / "here/model.safetensors").read_bytes()

    def test_a_blob_that_is_replaced_before_its_values_are_read(self, azure: Azurite, tmp_path: Path) -> None:
        """The metadata are of the old one. Its ETag is part of every request."""
        url = azure.put(CHECKPOINT, "run")
        seen: list[str] = []

        def rule(request: Request) -> None:
            if request.key.endswith("optim_states.pt") and 0 < request.range_bytes < 60_000 and not seen:
                seen.append(request.key)
                azure.write(request.key, azure.get(request.key)[:-1] + b"!")

        azure.rule = rule
        with pytest.raises(DamagedFile, match=r"was changed while it was being read.*az://runs/run/"):
            zeroconsolidate.consolidate(url, tmp_path / "there")
        assert seen


class TestWriting:
    @pytest.mark.parametrize(
        "options",
        [{}, {"dtype": "bf16", "max_shard_size": "20KB", "digest": "sha256"}, {"optimizer": True}],
        ids=str,
    )
    def test_convert(self, options: dict[str, Any], azure: Azurite, tmp_path: Path) -> None:
        zeroconsolidate.consolidate(CHECKPOINT, tmp_path / "here", **options)
        report = zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"), **options)
        same(azure, tmp_path / "here")
        assert report.checks[-1] == "MD5 of every block, by the store"
        assert zeroconsolidate.verify(azure.url("model")).ok
        assert zeroconsolidate.verify(azure.url("model"), against=CHECKPOINT).ok

    def test_from_store_to_store(self, azure: Azurite, here: Path) -> None:
        zeroconsolidate.consolidate(azure.put(CHECKPOINT, "run"), azure.url("model"))
        assert azure.get("model/model.safetensors") == (here / "model.safetensors").read_bytes()

    @pytest.mark.parametrize(
        "faults", [[SERVER_BUSY], [SERVER_ERROR, SERVER_BUSY, DROPPED, TRUNCATED, MD5_MISMATCH]], ids=["503", "all"]
    )
    def test_a_store_that_fails_now_and_then(self, faults: list[Fault], azure: Azurite, here: Path) -> None:
        azure.rule = some(0.25, faults)
        zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
        azure.rule = lambda _: None
        same(azure, here)

    def test_nothing_has_a_name_before_all_is_complete(self, azure: Azurite) -> None:
        """The order of what becomes visible: weights and what lies beside them, then index, config and manifest."""
        seen: list[set[str]] = []
        turn = threading.Lock()

        def rule(request: Request) -> None:
            if request.method == "PUT":
                with turn:
                    seen.append(visible(azure))

        azure.rule = rule
        report = zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"), max_shard_size="20KB")
        azure.rule = lambda _: None
        order = [name for one, next_ in zip(seen, [*seen[1:], visible(azure)], strict=True) for name in next_ - one]
        assert order[-1] == "model/zeroconsolidate.json"
        assert order.index("model/model.safetensors.index.json") > max(
            order.index(name) for name in order if name.endswith(".safetensors")
        )
        assert len(order) == len(report.files)

    def test_a_copy_that_takes_its_time(self, azure: Azurite, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is removed of what is staged before Azure says that it has copied it."""
        monkeypatch.setattr(azure_uploads, "_COPY_PAUSE_SECONDS", 0.01)
        pending = Fault(says={"x-ms-copy-status": "pending"})
        answers: dict[str, int] = {}

        def rule(request: Request) -> Fault | None:
            if request.key == "model/config.json" and request.method in ("PUT", "HEAD"):
                answers[request.method] = answers.get(request.method, 0) + 1
                return pending if answers.get("HEAD", 0) < 3 else None
            return None

        azure.rule = rule
        zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
        azure.rule = lambda _: None
        assert answers == {"PUT": 1, "HEAD": 3}
        same(azure, here)

    def test_a_block_that_arrives_as_another(self, azure: Azurite) -> None:
        """It comes with its MD5."""
        azure.rule = lambda request: Fault(spoilt=True) if block_of(request) == 2 else None
        with pytest.raises(StoreFailed, match=r"the store refuses the request: .*contentMD5 doesn't match"):
            zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
        assert visible(azure) == set()

    def test_interrupted_and_continued(self, azure: Azurite, here: Path) -> None:
        azure.rule = refusing(5)
        with pytest.raises(StoreFailed, match="the same command continues; with --abort it removes"):
            zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
        assert (visible(azure), azure.uploads()) == (set(), ["model/model.safetensors"])
        azure.rule = lambda _: None
        before = len(azure.requests)
        report = zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
        assert report.resumed_bytes >= PART
        sent = sorted(filter(None, map(block_of, azure.requests[before:])))
        assert sent == list(range(1 + report.resumed_bytes // PART, 8))
        same(azure, here)

    def test_refused_from_some_request_on_and_continued(self, azure: Azurite, here: Path) -> None:
        """Wherever it stops: no file without the others, and the same command makes the same output."""
        zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
        needed = max(each.number for each in azure.requests if each.key == "model/zeroconsolidate.json")
        for kept in range(1, needed, needed // 3):
            azure.empty()
            object_stores.store_of("az://runs").forget()
            first = len(azure.requests)
            azure.rule = lambda request, upto=first + kept: DENIED if request.number >= upto else None
            with pytest.raises(StoreFailed, match="refuses access"):
                zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
            azure.rule = lambda _: None
            assert "model/zeroconsolidate.json" not in visible(azure)
            zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
            same(azure, here)

    def test_a_process_that_is_killed(self, azure: Azurite, here: Path) -> None:
        held = threading.Event()

        def rule(request: Request) -> Fault | None:
            if (block_of(request) or 0) <= 4:
                return None
            held.set()
            return SERVER_BUSY

        azure.rule = rule
        program = (
            "import sys, small_uploads; small_uploads.begin(); from zeroconsolidate.cli import main; main(sys.argv[1:])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, "convert", str(CHECKPOINT), azure.url("model")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        while not held.wait(0.02) and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert visible(azure) == set()
        azure.rule = lambda _: None
        zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
        same(azure, here)

    def test_what_is_left_can_be_removed(self, azure: Azurite) -> None:
        azure.rule = refusing(5)
        with pytest.raises(StoreFailed):
            zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"))
        azure.rule = lambda _: None
        done = command("convert", CHECKPOINT, azure.url("model"), "--abort")
        assert (done.returncode, done.stderr) == (0, "")
        assert "removed" in done.stdout
        assert (azure.objects("model/"), azure.uploads()) == ([], [])
        assert abort(azure.url("model")) == 0

    def test_overwrite_replaces_a_model_and_leaves_the_rest(self, azure: Azurite, here: Path) -> None:
        zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"), dtype="bf16")
        before = {name: azure.get(name) for name in azure.objects("model/")}
        azure.write("model/notes.txt", b"mine")
        azure.rule = refusing(5)
        with pytest.raises(StoreFailed):
            zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"), overwrite=True)
        azure.rule = lambda _: None
        assert abort(azure.url("model")) > 0
        assert {name: azure.get(name) for name in azure.objects("model/")} == before | {"model/notes.txt": b"mine"}
        zeroconsolidate.consolidate(CHECKPOINT, azure.url("model"), overwrite=True)
        assert azure.get("model/notes.txt") == b"mine"
        azure.container.delete_blob("model/notes.txt")
        same(azure, here)

    def test_parts_of_several_machines(self, azure: Azurite, here: Path) -> None:
        zeroconsolidate.consolidate_part(CHECKPOINT, azure.url("model"), "2/3")
        azure.rule = some(0.2, [SERVER_BUSY, DROPPED, TRUNCATED])
        zeroconsolidate.consolidate_part(CHECKPOINT, azure.url("model"), "1/3")
        azure.rule = lambda _: None
        with pytest.raises(BadOption, match="1 of 3 parts are not finished"):
            zeroconsolidate.finish_parts(CHECKPOINT, azure.url("model"))
        zeroconsolidate.consolidate_part(CHECKPOINT, azure.url("model"), "3/3")
        assert visible(azure) == set()
        zeroconsolidate.finish_parts(CHECKPOINT, azure.url("model"))
        same(azure, here)

    def test_workers_of_an_executor(self, azure: Azurite, here: Path) -> None:
        url = azure.put(CHECKPOINT, "run")
        zeroconsolidate.consolidate(url, azure.url("model"), executor=Here(lambda *_: None))
        azure.container.delete_blob("model/zeroconsolidate.json")  # it has the times of local files
        there = {name.removeprefix("model/"): azure.get(name) for name in azure.objects("model/")}
        assert there == {name: data for name, data in files_in(here).items() if name != "zeroconsolidate.json"}
        assert azure.uploads() == []

    def test_an_upload_that_was_thrown_away(self, azure: Azurite) -> None:
        """A task that comes late does not begin it again."""
        store, url = uploads_to(azure.url("model")), azure.url("model/x")
        upload = store.begin(url, PART)
        assert store.parts(url, upload) == {}
        store.give_up(url, upload)
        assert store.parts(url, upload) is None
        assert azure.objects() == []

    def test_the_blocks_of_another_upload_are_not_taken_for_ours(self, azure: Azurite) -> None:
        store, url = uploads_to(azure.url("model")), azure.url("model/x")
        theirs, ours = store.begin(url, PART), store.begin(url, PART)
        store.part(url, theirs, 1, b"their")
        etag = store.part(url, ours, 1, b"ours!")
        assert {number: part.size_bytes for number, part in (store.parts(url, ours) or {}).items()} == {1: 5}
        assert store.parts(url, "0" * 24) is None
        store.complete(url, ours, {1: etag})
        assert azure.get("model/x") == b"ours!"
        assert store.parts(url, ours) is None


def test_watch(azure: Azurite, here: Path, tmp_path: Path) -> None:
    azure.put(CHECKPOINT, "run/checkpoint-2")
    url = azure.put(CHECKPOINT, "run/checkpoint-20").rpartition("/")[0]
    found = list(zeroconsolidate.watch(url, tmp_path / "{name}", idle=0, interval=0))
    assert [(each.name, each.made) for each in found] == [("checkpoint-2", True), ("checkpoint-20", True)]
    for each in found:
        assert files_in(tmp_path / each.name)["model.safetensors"] == (here / "model.safetensors").read_bytes()
    assert list(zeroconsolidate.watch(url, tmp_path / "{name}", idle=0, interval=0)) == []


class TestErrors:
    def test_the_wrong_key(self, azure: Azurite) -> None:
        wrong = connection_string(azure.endpoint, "d3Jvbmc=")
        done = command("inspect", azure.url("run"), AZURE_STORAGE_CONNECTION_STRING=wrong)
        assert "the store refuses access: HttpResponseError: Server failed to authenticate the request." in error_of(
            done
        )
        assert "check the credentials" in done.stderr

    def test_no_account(self, azure: Azurite) -> None:
        done = command("inspect", azure.url("run"), AZURE_STORAGE_CONNECTION_STRING="")
        assert "the client finds no account" in error_of(done)
        assert "set AZURE_STORAGE_CONNECTION_STRING" in done.stderr

    def test_what_is_not_there(self, azure: Azurite) -> None:
        for url in (azure.url("none"), "az://no-such-container/none"):
            with pytest.raises(NotACheckpoint, match="there is no such directory"):
                zeroconsolidate.inspect(url)
        with pytest.raises(OutputFailed, match=r"no such bucket or container.*container does not exist"):
            zeroconsolidate.consolidate(CHECKPOINT, "az://no-such-container/model")

    def test_a_file_of_the_checkpoint_is_missing(self, azure: Azurite, tmp_path: Path) -> None:
        url = azure.put(FIXTURES / "z2_w4/checkpoint", "run")
        (lost,) = [name for name in azure.objects("run/") if "pp_rank_2_" in name and "optim" in name]
        azure.container.delete_blob(lost)
        done = command("convert", url, tmp_path / "out")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert f"{lost.rpartition('/')[2]} is missing" in done.stderr

    def test_a_name_that_no_container_can_have(self, azure: Azurite) -> None:
        with pytest.raises(StoreFailed, match="the store refuses the request"):
            zeroconsolidate.inspect("az://No_Container/run")

    def test_permission_is_missing_for_one_file_only(self, azure: Azurite, tmp_path: Path) -> None:
        url = azure.put(FIXTURES / "z2_w4/checkpoint", "run")
        azure.rule = lambda request: DENIED if "pp_rank_2" in request.key else None
        with pytest.raises(StoreFailed, match=r"refuses access.*pp_rank_2"):
            zeroconsolidate.consolidate(url, tmp_path / "out", rescue=True)
