"""Ray, Dask and MPI: workers killed, the scheduler restarted, the coordinator killed (`tools/test_clusters.sh`)."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torchless
from command import environment
from folders import contents
from safetensors import safe_open

from zeroconsolidate import consolidate
from zeroconsolidate.errors import BadOption, DamagedFile, MissingPackage, OutputFailed
from zeroconsolidate.integrations.engines import engine
from zeroconsolidate.options import Options
from zeroconsolidate.outputs import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/z3_w3/checkpoint"


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed: tools/test_clusters.sh")


SECONDS = 150
"""A test that takes longer has failed."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 MB: z3_w3's weights are too few to be interrupted."""
    root = tmp_path_factory.mktemp("big") / "checkpoint-5"
    torchless.write(root, torchless.values_of(48), ranks=3)
    return root


@pytest.fixture(scope="module")
def straight(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes, which is what was saved."""
    out = tmp_path_factory.mktemp("straight") / "model"
    consolidate(checkpoint, out, max_shard_size="20MB")
    written = {}
    for path in out.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as opened:
            written |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
    saved = torchless.values_of(48)
    assert written.keys() == saved.keys()
    assert all(np.array_equal(written[name], value) for name, value in saved.items())
    return contents(out)


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """No test takes longer than SECONDS, and what it has started and left ends with it."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"the test has taken {SECONDS} seconds")

    before = descendants(os.getpid())
    earlier = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
        for pid in descendants(os.getpid()).keys() - before.keys():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "LEAST_BYTES", 2 << 20)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


class Once:
    """A progress callback that does something once, when a fifth is done."""

    def __init__(self, what: Any) -> None:
        self.what = what
        self.done = False

    def __call__(self, done: int, total: int) -> None:
        if not self.done and done > total / 5:
            self.done = True
            self.what()


COORDINATOR = """
import os, signal, sys
from zeroconsolidate import consolidate
from zeroconsolidate.outputs import spread
spread.LEAST_BYTES = 2 << 20
def progress(done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
consolidate(sys.argv[1], sys.argv[2], executor=sys.argv[3], max_shard_size="20MB", progress=progress)
"""


def killed_coordinator(checkpoint: Path, out: Path, executor: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COORDINATOR, checkpoint, out, executor],
        env=environment(),
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [path.name for path in out.iterdir()] == [".zeroconsolidate"]


class Dask:
    """A scheduler and workers in processes of their own."""

    def __init__(self, workers: int) -> None:
        self.port = free_port()
        self.scheduler = self.start("scheduler", "--port", str(self.port), "--no-dashboard", "--host", "127.0.0.1")
        self.workers = [self.worker() for _ in range(workers)]

    @property
    def name(self) -> str:
        return f"dask://127.0.0.1:{self.port}"

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def worker(self) -> subprocess.Popen[bytes]:
        address = f"tcp://127.0.0.1:{self.port}"
        return self.start("worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--death-timeout", "60")

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def dask() -> Iterator[Dask]:
    cluster = Dask(2)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", cluster.port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield cluster
    finally:
        cluster.end()


@needs("distributed")
class TestDask:
    def test_a_worker_is_killed(self, dask: Dask, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        kill = Once(lambda: dask.workers[0].send_signal(signal.SIGKILL))
        consolidate(checkpoint, tmp_path / "out", executor=dask.name, max_shard_size="20MB", progress=kill)
        assert kill.done
        assert contents(tmp_path / "out") == straight

    def test_the_coordinator_is_killed(
        self, dask: Dask, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
    ) -> None:
        killed_coordinator(checkpoint, tmp_path / "out", dask.name)
        report = consolidate(checkpoint, tmp_path / "out", executor=dask.name, max_shard_size="20MB")
        assert report.resumed_bytes > report.bytes_written // 3
        assert contents(tmp_path / "out") == straight

    def test_the_scheduler_is_restarted(
        self, dask: Dask, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
    ) -> None:
        """Either the run gets over it, or it says that the same call goes on, and that does."""

        def restart() -> None:
            dask.scheduler.kill()
            dask.scheduler.wait()
            for worker in dask.workers:
                worker.kill()
                worker.wait()
            dask.scheduler = dask.start("scheduler", "--port", str(dask.port), "--no-dashboard", "--host", "127.0.0.1")
            dask.workers = [dask.worker() for _ in range(2)]

        where = tmp_path / "out"
        try:
            consolidate(checkpoint, where, executor=dask.name, max_shard_size="20MB", progress=Once(restart))
        except OutputFailed as error:
            assert error.consequence == "what is written is kept"
            time.sleep(5)
            report = consolidate(checkpoint, where, executor=dask.name, max_shard_size="20MB")
            assert report.resumed_bytes > 0
        assert contents(where) == straight

    def test_errors_are_ours(self, dask: Dask, checkpoint: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(checkpoint, tmp_path / "checkpoint")

        def cut(what: str) -> None:
            if what == "copying":
                os.truncate(next((tmp_path / "checkpoint").glob("*/*rank_1*optim*")), 5000)

        with pytest.raises(DamagedFile, match="the file ends too early"):
            consolidate(tmp_path / "checkpoint", tmp_path / "out", executor=dask.name, status=cut)

    def test_a_scheduler_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        import dask as configured

        impatient = configured.config.set({"distributed.comm.timeouts.connect": "1s"})
        with impatient, pytest.raises(BadOption, match=r"dask://127.0.0.1:1 cannot be reached"):
            consolidate(FIXTURE, tmp_path / "out", executor="dask://127.0.0.1:1")


def descendants(of: int) -> dict[int, str]:
    """Processes that this one has started, and those that they have: pid -> name."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            parents[int(entry.name)] = int(next(s.split()[1] for s in status.splitlines() if s.startswith("PPid:")))
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in {of, *found}} - found:
        found |= more
    return {pid: names[pid] for pid in found if pid in names}


TOKEN = secrets.token_hex(32)
"""Ray keeps the first that it has read."""


@needs("ray")
class TestRay:
    @pytest.fixture(autouse=True)
    def cluster(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        # Ray would make a token, and keep it in the user's home. It reads these when it is imported.
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        import ray

        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error")
        yield
        ray.shutdown()

    def test_a_worker_is_killed(self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]) -> None:
        killed = []

        def kill() -> None:
            workers = [pid for pid, name in descendants(os.getpid()).items() if name.startswith("ray::_answer")]
            if workers:
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])

        consolidate(
            checkpoint,
            tmp_path / "out",
            executor="ray",
            max_shard_size="20MB",
            progress=lambda done, total: killed or kill(),
        )
        assert killed
        assert contents(tmp_path / "out") == straight

    def test_errors_are_ours(self, checkpoint: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(checkpoint, tmp_path / "checkpoint")

        def cut(what: str) -> None:
            if what == "copying":
                os.truncate(next((tmp_path / "checkpoint").glob("*/*rank_1*optim*")), 5000)

        with pytest.raises(DamagedFile, match="the file ends too early"):
            consolidate(tmp_path / "checkpoint", tmp_path / "out", executor="ray", status=cut)


class RayHead:
    """A cluster of one node in processes of its own, which asks for a token, and listens for clients."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.client_port = folder, free_port(), free_port()
        self.start()

    @property
    def name(self) -> str:
        return f"ray://127.0.0.1:{self.client_port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--port", str(self.port),
             "--ray-client-server-port", str(self.client_port), "--num-cpus", "2", "--include-dashboard", "false",
             "--disable-usage-stats", "--node-ip-address", "127.0.0.1", "--object-store-memory", str(80 << 20),
             "--temp-dir", self.folder],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.client_port), timeout=1).close()
                return
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def end(self) -> None:
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


RAY_CLIENT = """
import sys
from zeroconsolidate.cli import main
from zeroconsolidate.outputs import spread
from zeroconsolidate.write.stage import Stage
spread.LEAST_BYTES = 2 << 20
note = Stage.note
def noted(*arguments):
    note(*arguments)
    print("noted", flush=True)
Stage.note = noted
sys.exit(main(["convert", "-q", *sys.argv[1:], "--max-shard-size", "20MB"]))
"""


@needs("ray")
class TestRayFromElsewhere:
    @pytest.mark.parametrize(("theirs", "here"), [("2.1.0", "3.9.1"), ("2.1.0", None)])
    def test_another_version(self, theirs: str, here: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ray's own words, in a sentence of ours."""
        import platform

        import ray
        from ray._private.utils import check_version_info

        python = here or platform.python_version()

        def init(**_: object) -> None:
            check_version_info({"ray_version": theirs, "python_version": python}, "Ray Client")

        monkeypatch.setattr(ray, "init", init)
        expected = rf"expected Ray {theirs} with Python {python}, got Ray {ray.__version__} with Python \S+; use the"
        with (
            pytest.raises(BadOption, match=rf"another version of Ray or of Python than this machine; {expected}"),
            engine("ray://head:10001"),
        ):
            pass

    def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        def init(**_: object) -> None:
            raise ConnectionError("ray client connection timeout")

        monkeypatch.setattr(ray, "init", init)
        with (
            pytest.raises(
                BadOption, match=r"cannot be reached.*check host and port.*token needs its RAY_AUTH_MODE=token"
            ),
            engine("ray://head:10001"),
        ):
            pass

    def start(self, checkpoint: Path, out: Path, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", RAY_CLIENT, checkpoint, out, "--executor", name],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def test_the_head_is_restarted(
        self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Either the run gets over it, or it says that the same command goes on, and that does."""
        for key, value in {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "2",
        }.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        out = tmp_path / "out"
        with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # sockets have short names
            head = RayHead(Path(folder))
            try:
                head.wait()
                first = self.start(checkpoint, out, head.name)
                assert first.stdout is not None
                assert first.stdout.readline() == "noted\n"
                head.end()
                head.start()
                _, said = first.communicate()
                if first.returncode:
                    assert (first.returncode, "Traceback" in said) == (2, False), said
                    assert [path.name for path in out.iterdir()] == [".zeroconsolidate"]
                    head.wait()
                    second = self.start(checkpoint, out, head.name)
                    _, said = second.communicate()
                    assert second.returncode == 0, said
                assert contents(out) == straight
            finally:
                head.end()


MPIEXEC = Path(sys.executable).with_name("mpiexec")
MPI = """
import runpy, sys
from zeroconsolidate.outputs import spread
from zeroconsolidate.write import stage
spread.LEAST_BYTES = 2 << 20
if __name__ == "__main__" and sys.argv[1] == "abort":
    import os, signal
    true, noted = stage.Stage.note, []
    def note(*arguments):
        true(*arguments)
        noted.append(1)
        if len(noted) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
    stage.Stage.note = note
if __name__ == "__main__":  # workers import it, too
    from zeroconsolidate.cli import main
    sys.exit(main(sys.argv[2:]))
"""


@needs("mpi4py")
@pytest.mark.skipif(not MPIEXEC.exists(), reason="there is no mpiexec beside this Python")
class TestMpi:
    def run(self, how: str, checkpoint: Path, out: Path) -> subprocess.CompletedProcess[bytes]:
        program = out.parent / "program.py"
        program.write_text(MPI)
        return subprocess.run(
            [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures", program, how, "convert", "-q", checkpoint, out,
             "--executor", "mpi", "--max-shard-size", "20MB"],
            env=environment(),
            check=False,
            capture_output=True,
            timeout=120,
        )  # fmt: skip

    def test_all_ranks_are_lost_and_the_same_command_goes_on(
        self, checkpoint: Path, tmp_path: Path, straight: dict[str, bytes]
    ) -> None:
        """MPI ends them all when one is lost."""
        first = self.run("abort", checkpoint, tmp_path / "out")
        assert first.returncode != 0
        journal = (tmp_path / "out/.zeroconsolidate/journal").read_bytes()
        assert journal.count(b'"stretch"') >= 5
        second = self.run("normal", checkpoint, tmp_path / "out")
        assert second.returncode == 0, second.stderr.decode()
        assert contents(tmp_path / "out") == straight


class TestWithoutThem:
    @pytest.mark.parametrize("name", ["spark", "ray:/x", "mpi://x", "", "dask://", "ray://a b"])
    def test_what_is_no_engine(self, name: str) -> None:
        with pytest.raises(BadOption, match="an executor is ray, dask or mpi; expected ray://HOST:PORT"):
            Options(executor=name)

    @pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("dask://h:1", "distributed"), ("mpi", "mpi4py")])
    def test_what_is_not_installed(self, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in [package, *(known for known in sys.modules if known.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, module, None)
        if package == "mpi4py":
            monkeypatch.setitem(sys.modules, "mpi4py.futures", None)
        kind = name.partition(":")[0]
        with (
            pytest.raises(
                MissingPackage, match=rf"--executor {kind} needs {package}, which cannot be imported"
            ) as raised,
            engine(name),
        ):
            pass
        assert raised.value.remedy == f"pip install 'zeroconsolidate[{kind}]'"
