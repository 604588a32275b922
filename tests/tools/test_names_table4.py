"""The built-in table says what transformers 4 says, too, as far as that builds a model: tools/test_transformers4.sh.

A sample. `python -m names_table prove` in that environment is all of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from zeroconsolidate.naming.table.lookup import ENTRIES

pytest.importorskip("transformers")

import transformers
from names_table import prove
from names_table.oracle import MAJOR, Oracle

pytestmark = pytest.mark.skipif(MAJOR != 4, reason="needs transformers 4")

FOLDER = Path(ENTRIES)
TYPES = sorted(path.stem for path in FOLDER.glob("[!_]*.json"))
KNOWN = [model_type for model_type in TYPES if model_type in transformers.CONFIG_MAPPING]
CONFIGS = 4
"""For each class, the same in each run."""


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.mark.parametrize("model_type", KNOWN)
def test_the_table_and_transformers_4_agree(model_type: str, oracle: Oracle) -> None:
    (entry,) = prove.entries_in(FOLDER, [model_type])
    proofs = list(prove.proven(entry, FOLDER, oracle, CONFIGS, "sample"))
    assert [problem for proof in proofs for problem in proof.wrong] == []
    assert all(proof.agreed or proof.refused for proof in proofs)


def test_it_has_most_of_them() -> None:
    assert len(KNOWN) > len(TYPES) / 2
