"""What an engine and its program go on with besides tensors."""

from __future__ import annotations

from typing import Any

from catalogs import model, tensor

from zeroconsolidate.archive.inert import Inert
from zeroconsolidate.catalog.nested import MAX_DEPTH
from zeroconsolidate.catalog.resuming import resuming_of


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_counters_scheduler_and_client_state():
    state = {"epoch": 7, "rng": {"torch": tensor(3), "python": (3, (1, 2), None)}, "raw": b"x"}
    content = model(skipped_steps=2, global_samples=40, lr_scheduler={"last_epoch": 3}, **state)
    found = resuming_of(content)
    assert (found.global_steps, found.skipped_steps, found.global_samples) == (5, 2, 40)
    assert found.lr_scheduler == {"last_epoch": 3}
    assert found.client_state == state
    assert found.unread == ()


def test_what_is_an_object_of_some_class_is_named_and_not_passed_on():
    content = model(
        args=Inert("my.Args", ()), ok=[1], deep=nested(MAX_DEPTH + 1), lr_scheduler={"fn": Inert("f", ())},
        random_ltd={"x": 1}, data_sampler=None, odd={tensor(): 1},
    )  # fmt: skip
    found = resuming_of(content)
    assert found.client_state == {"ok": [1]}
    assert found.lr_scheduler is None
    assert found.unread == ("random_ltd", "'args'", "'deep'", "'odd'", "lr_scheduler")


def test_a_run_without_a_scheduler():
    assert resuming_of(model(lr_scheduler=None)).lr_scheduler is None
    assert resuming_of(model(lr_scheduler=None)).unread == ()
