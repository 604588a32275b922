"""Ray, Dask and MPI -> executors with the interface of `concurrent.futures`. Each is imported when it is asked for.

Their workers must be able to import this package. What is returned is used as a context manager.
"""

from __future__ import annotations

import re
import threading
import warnings
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import BadOption, MissingPackage
from .engine_names import refuse_unknown
from .packages import install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PACKAGES = {"ray": "ray", "dask": "distributed", "mpi": "mpi4py.futures"}


@contextmanager
def engine(name: str) -> Iterator[Executor]:
    """The executor that `ray`, `ray://HOST:PORT`, `dask`, `dask://HOST:PORT` or `mpi` names.

    Raises BadOption for another name or a cluster that cannot be reached, MissingPackage where the engine is not
    installed.
    """
    refuse_unknown(name)
    kind, _, address = name.partition("://")
    try:
        module = import_module(_PACKAGES[kind])
    except ImportError as error:
        raise MissingPackage(
            f"--executor {kind} needs {_PACKAGES[kind].partition('.')[0]}, which cannot be imported: {error}",
            remedy=install(kind),
        ) from None
    with _MAKERS[kind](module, address) as executor:
        yield executor


class RayExecutor(Executor):
    """Tasks of Ray, each on one processor of the cluster. When its head goes, what was under way is lost."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        # What is lost is given out again by whoever gives tasks out, who counts how often.
        self._remote = ray.remote(num_cpus=1, max_retries=0)(_answer)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, **kwargs)` somewhere."""
        answer: Future[Any] = Future()

        def ended(done: Future[Any]) -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                value, error = done.result()
            except BaseException as lost:  # noqa: BLE001  (raised where the answer is asked for)
                value, error = None, lost if self._ray.is_initialized() else BrokenExecutor(_HEAD_GONE)
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        if not self._ray.is_initialized():  # Ray would begin another cluster, here
            raise BrokenExecutor(_HEAD_GONE)
        try:
            future = self._remote.remote(fn, args, kwargs).future()
        except Exception as error:
            raise BrokenExecutor(
                f"Ray takes no task: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            ) from error
        future.add_done_callback(ended)
        return answer


def _answer(fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, BaseException | None]:
    """A result, or the exception itself: Ray would make another of it."""
    try:
        return fn(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001
        return None, error


@contextmanager
def _ray(ray: Any, address: str) -> Iterator[Executor]:
    began = not ray.is_initialized()
    if began:
        with suppress(Exception):  # what is left of a connection to a cluster that has gone
            ray.shutdown()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they say is said below
                ray.init(
                    address=f"ray://{address}" if address else None, log_to_driver=False, logging_level="error",
                    include_dashboard=None if address else False,
                )  # fmt: skip
        except Exception as error:  # noqa: BLE001  (said in our words, whatever Ray says)
            raise _refused_by_ray(f"ray://{address}" if address else "ray", error) from None
    try:
        yield RayExecutor(ray)
    finally:
        if began:
            ray.shutdown()


class DaskExecutor(Executor):
    """Tasks of a Dask cluster. When its scheduler goes, or another comes in its place, what was under way is lost: a
    client of Dask connects again, and waits for it without end."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # The same task may be given out again: it is not to be answered from memory.
        self._within = client.get_executor(pure=False)
        self._scheduler = _identity(client)
        self._under_way: set[Future[Any]] = set()
        self._turn, self._ended, self._broken = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._watch, name="zeroconsolidate-dask", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, **kwargs)` somewhere."""
        answer: Future[Any] = Future()
        with self._turn:
            if self._broken:
                raise BrokenExecutor(_GONE)
            self._under_way.add(answer)

        def ended(done: Future[Any]) -> None:
            if done.cancelled():
                self._end(answer, None, BrokenExecutor("the cluster has dropped the task"))
            else:
                error = done.exception()
                self._end(answer, None if error else done.result(), error)

        self._within.submit(fn, *args, **kwargs).add_done_callback(ended)
        return answer

    def close(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def _end(self, answer: Future[Any], value: Any, error: BaseException | None) -> None:
        with self._turn:
            if answer not in self._under_way:
                return
            self._under_way.remove(answer)
        if not answer.set_running_or_notify_cancel():
            return
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if self._client.status != "running" or _identity(self._client) != self._scheduler:
                with self._turn:
                    self._broken = True
                    lost = list(self._under_way)
                for answer in lost:
                    self._end(answer, None, BrokenExecutor(_GONE))
                return


_GONE = "the scheduler has gone"
_HEAD_GONE = "the head of the Ray cluster has gone"
_LOOK_SECONDS = 0.5


def _identity(client: Any) -> object:
    """Which scheduler it is: one that is started anew has another."""
    return client.scheduler_info().get("id")


@contextmanager
def _dask(distributed: Any, address: str) -> Iterator[Executor]:
    try:
        client = distributed.Client(f"tcp://{address}" if address else None, set_as_default=False)
    except Exception as error:  # noqa: BLE001  (said in our words, whatever Dask says)
        raise _unreachable(f"dask://{address}" if address else "dask", error) from None
    executor = DaskExecutor(client)
    try:
        yield executor
    finally:
        executor.close()
        with suppress(Exception):  # a cluster that has gone cannot be taken leave of
            client.close()


@contextmanager
def _mpi(futures: Any, _: str) -> Iterator[Executor]:
    with futures.MPIPoolExecutor() as executor:
        yield executor


_MAKERS: dict[str, Callable[[Any, str], Any]] = {"ray": _ray, "dask": _dask, "mpi": _mpi}


def _refused_by_ray(name: str, error: Exception) -> BadOption | MissingPackage:
    """What is wrong, in a sentence. Ray compares versions (`check_version_info` in `ray/_private/utils.py`); a token
    that is wrong, or none, looks to its client as if nobody were there."""
    text = str(error)
    versions = _VERSIONS.findall(text)
    if len(versions) == 2:
        theirs, ours = (f"Ray {ray} with Python {python}" for ray, python in versions)
        return BadOption(
            f"--executor {name}: the cluster has another version of Ray or of Python than this machine",
            expected=theirs,
            found=ours,
            remedy="use the cluster's versions of both here, and this version of zeroconsolidate on its nodes",
        )
    if isinstance(error, ImportError):
        return MissingPackage(
            f"--executor {name} needs Ray's client, which cannot be imported: {error}",
            remedy='pip install "zeroconsolidate[ray]"',
        )
    where = "host and port (10001, if the cluster names no other)" if "://" in name else "RAY_ADDRESS, if it is set"
    remedy = (
        f"check {where}; a cluster that asks for a token needs its RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here, too"
    )
    return _unreachable(name, error, remedy)


_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def _unreachable(name: str, error: Exception, remedy: str | None = None) -> BadOption:
    said = " ".join(str(error).split()) if remedy else str(error).strip().partition("\n")[0]
    return BadOption(f"--executor {name} cannot be reached: {type(error).__name__}: {said[:200]}", remedy=remedy)
