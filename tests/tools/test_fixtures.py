"""The committed fixtures are what `tools/make_fixtures.py` wrote, small, and consistent with their own record."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from command import REPOSITORY
from fixtures import FIXTURES, fixture_cases

if TYPE_CHECKING:
    from fixtures import Fixture

MAKE = REPOSITORY / "tools" / "make_fixtures.py"
FRAMEWORKS = ("trainer_", "flagembedding_")  # these carry a tokenizer and a model that has to be able to speak


def files(fixture: Fixture) -> dict[str, bytes]:
    return {
        path.relative_to(fixture.folder).as_posix(): path.read_bytes()
        for path in fixture.folder.rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


def header(fixture: Fixture) -> dict[str, Any]:
    """The names, dtypes and shapes in expected.safetensors, read without any library."""
    content = (fixture.folder / "expected.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + length])
    entries.pop("__metadata__")
    return entries


def test_every_file_has_its_digest(fixture: Fixture) -> None:
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files(fixture).items()} == (
        fixture.provenance["sha256"]
    )


def test_fixture_is_small(fixture: Fixture) -> None:
    limit = 400_000 if fixture.name.startswith(FRAMEWORKS) else 200_000
    assert sum(map(len, files(fixture).values())) <= limit


def test_expected_names_are_the_recorded_ones(fixture: Fixture) -> None:
    record = fixture.provenance
    frozen = [] if record.get("exclude_frozen_parameters") else record["frozen"]
    assert set(header(fixture)) == {*record["trainable"], *frozen, *record["buffers"]}


def test_masters_are_fp32(fixture: Fixture) -> None:
    entries = header(fixture)
    assert {entries[name]["dtype"] for name in fixture.provenance["trainable"]} == {"F32"}


def test_ties_point_at_a_parameter_that_is_no_alias(fixture: Fixture) -> None:
    record = fixture.provenance
    for alias, canonical in record["ties"].items():
        assert canonical in {*record["trainable"], *record["frozen"]}
        assert alias not in {*record["trainable"], *record["frozen"], *record["buffers"]}


def test_every_rank_left_its_file(fixture: Fixture) -> None:
    tag = fixture.folder / "checkpoint" / (fixture.folder / "checkpoint" / "latest").read_text()
    ranks = {
        int(match[1])
        for path in tag.iterdir()
        if (match := re.fullmatch(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt", path.name))
    }
    assert ranks == set(range(fixture.provenance["world_size"]))


def test_nothing_names_the_machine_it_was_made_on(fixture: Fixture) -> None:
    home = re.compile(rb"/(?:root|home|work|opt|tmp|Users)/\w")
    assert [name for name, content in files(fixture).items() if home.search(content)] == []


def test_every_case_is_committed() -> None:
    listed = subprocess.run([sys.executable, MAKE, "--list"], capture_output=True, text=True, check=True).stdout
    assert sorted(line.split()[0] for line in listed.splitlines()) == fixture_cases()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_integer_beyond_float32_is_there_to_be_lost(stage: int) -> None:
    from safetensors.numpy import load_file

    values = load_file(FIXTURES / f"z{stage}_fp32" / "expected.safetensors")
    assert values["buffers_of_all_kinds.updates"] == 2**24 + 1
