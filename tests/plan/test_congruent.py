"""Which bytes can share blocks, and layouts in which they can: laws that hold for any tensors, and examples."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise, permutations
from typing import TYPE_CHECKING

import pytest

from zeroconsolidate.archive.located import LocatedStorage, contiguous
from zeroconsolidate.dtypes import DType
from zeroconsolidate.plan import congruent as module
from zeroconsolidate.plan.congruent import Congruent, Sharing, congruent
from zeroconsolidate.plan.layout import TensorPlan
from zeroconsolidate.plan.pieces import View
from zeroconsolidate.plan.walks import walks
from zeroconsolidate.plan.zero3 import Stripes

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 64
ALL = Sharing(block_bytes=BLOCK, apart=frozenset(), insisted=True)
AUTO = Sharing(block_bytes=BLOCK, apart=frozenset(), insisted=False)


def tensor(
    name: str, start: int, numel: int, *, file: str = "a", dtype: DType = DType.F32, written: DType | None = None
) -> TensorPlan:
    """A tensor that lies at byte `start` of a file."""
    storage = LocatedStorage(file=file, key="", start=start, numel=numel, dtype=dtype, big_endian=False)
    recipe = View(contiguous(storage, (numel,)))
    return TensorPlan(name=name, dtype=written or dtype, shape=(numel,), recipe=recipe, is_parameter=True)


def cast(name: str, start: int, numel: int, *, file: str = "module") -> TensorPlan:
    """A tensor that is cast, and whose witness lies at byte `start` of a file."""
    witness = tensor(name, start, numel, file=file, dtype=DType.BF16).recipe
    return replace(tensor(name, 4, numel, file="masters", written=DType.BF16), witness=witness)


def striped(name: str, starts: list[int], numel: int) -> TensorPlan:
    """A tensor in stripes, one a file."""
    width = -(-numel // len(starts))
    partitions = tuple(
        contiguous(
            LocatedStorage(file=f"rank {rank}", key="", start=start, numel=width, dtype=DType.F32, big_endian=False),
            (width,),
        )
        for rank, start in enumerate(starts)
    )
    return TensorPlan(
        name=name, dtype=DType.F32, shape=(numel,), recipe=Stripes(partitions, 0, numel), is_parameter=True
    )


def shared_in(made: Congruent) -> int:
    """Bytes of whole blocks that lie alike in the input and in the files, counted one by one."""
    count = 0
    for file in made.files:
        for plan, first in zip(file.tensors, file.starts, strict=True):
            if plan.shareable is not None:
                for copy in plan.shareable.copies():
                    there = first + copy.start * plan.dtype.itemsize
                    if (copy.file_start - there) % BLOCK == 0:
                        begin = -(-copy.file_start // BLOCK) * BLOCK
                        end = (copy.file_start + copy.nbytes) // BLOCK * BLOCK
                        count += max(end - begin, 0)
    return count


def names(made: Congruent | None) -> list[list[str]]:
    assert made is not None
    return [[plan.name for plan in file.tensors] for file in made.files]


class TestWalks:
    def test_an_example(self) -> None:
        assert walks([(3, 3), (3, 7), (5, 5), (7, 3)]) == [[0, 1, 3], [2]]

    def test_nothing(self) -> None:
        assert walks([]) == []

    @pytest.mark.parametrize("seed", range(300))
    def test_every_step_once_in_as_few_walks_as_there_can_be(self, seed: int) -> None:
        dice = random.Random(seed)
        kinds = dice.randrange(1, 5)
        steps = [(dice.randrange(kinds), dice.randrange(kinds)) for _ in range(dice.randrange(1, 7))]
        found = walks(steps)
        assert sorted(step for walk in found for step in walk) == list(range(len(steps)))
        assert all(steps[first][1] == steps[second][0] for walk in found for first, second in pairwise(walk))
        fewest = min(
            1 + sum(steps[first][1] != steps[second][0] for first, second in pairwise(order))
            for order in permutations(range(len(steps)))
        )
        assert len(found) == fewest


class TestPlaces:
    def test_the_drawing_of_the_module(self) -> None:
        """A tensor of 26 bytes at byte 12, and blocks of 8."""
        made = congruent(
            [tensor("a", 12, 26, dtype=DType.U8)],
            None,
            Sharing(block_bytes=8, apart=frozenset(), insisted=True),
            name="model.safetensors",
        )
        assert made is not None
        assert made.files[0].starts[0] % 8 == 4
        assert made.shared_bytes == 16

    def test_the_header_is_padded_with_spaces_and_nothing_else(self) -> None:
        made = congruent([tensor("a", 60, 64)], None, ALL, name="model.safetensors")
        assert made is not None
        (file,) = made.files
        text = file.header[8:].decode()
        assert file.header[:8] == len(text).to_bytes(8, "little")
        assert json.loads(text)["a"]["data_offsets"] == [0, 256]
        assert set(text[len(text.rstrip()) :]) <= {" "}
        assert len(file.header) % BLOCK == 60

    def test_what_ends_where_another_begins_shares_its_file(self) -> None:
        """As at stage 2, where parameters lie end to end."""
        made = congruent(
            [tensor("a", 4, 33), tensor("b", 4 + 33 * 4, 50), tensor("c", 4 + 83 * 4, 64)], None, ALL, name="m"
        )
        assert names(made) == [["a", "b", "c"]]

    def test_other_residues_have_other_files(self) -> None:
        made = congruent(
            [tensor("a", 4, 64), tensor("b", 8, 64), tensor("c", 68, 64)], None, ALL, name="model.safetensors"
        )
        assert names(made) == [["a", "c"], ["b"]]
        assert made is not None
        assert [file.name for file in made.files] == [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ]

    def test_the_residue_of_most_bytes_counts(self) -> None:
        """Two ranks of three lie alike."""
        made = congruent([striped("a", [8, 8, 20], 96 * 3)], None, ALL, name="m")
        assert made is not None
        assert made.files[0].starts[0] % BLOCK == 8
        assert made.shared_bytes == shared_in(made) == 2 * 5 * BLOCK

    def test_a_residue_at_which_no_loader_maps_the_tensor_does_not_count(self) -> None:
        assert congruent([tensor("a", 2, 640)], None, ALL, name="m") is None

    def test_what_is_cast_small_or_on_another_disk_stands_behind(self) -> None:
        tensors = [
            tensor("cast", 0, 640, written=DType.BF16),
            tensor("small", 64, 15),
            tensor("apart", 128, 640, file="b"),
            tensor("a", 4, 64),
        ]
        sharing = Sharing(block_bytes=BLOCK, apart=frozenset({"b"}), insisted=True)
        made = congruent(tensors, None, sharing, name="m")
        assert names(made) == [["a", "small", "apart", "cast"]]
        assert made is not None
        assert made.shared_bytes == 3 * BLOCK

    def test_no_tensor_stands_where_its_items_are_not_aligned(self) -> None:
        """Behind a file whose data begins at 4 modulo 8 there is no place for items of 8 bytes."""
        made = congruent([tensor("a", 4, 64), tensor("long", 0, 3, dtype=DType.I64)], None, ALL, name="m")
        assert names(made) == [["a"], ["long"]]

    def test_a_full_file_is_followed_by_another(self) -> None:
        tensors = [tensor(f"t{n}", 4 + n * 256, 64) for n in range(5)] + [tensor("s", 0, 2)]
        made = congruent(tensors, 2 * 256 + 8, ALL, name="model.safetensors")
        assert names(made) == [["t0", "t1", "s"], ["t2", "t3"], ["t4"]]
        made = congruent(tensors, 100, ALL, name="model.safetensors")
        assert names(made) == [["t0"], ["t1"], ["t2"], ["t3"], ["t4"], ["s"]]
        assert made is not None
        assert made.shared_bytes == shared_in(made) == 5 * 3 * BLOCK


class TestWitness:
    """What is cast, and lies in the dtype that is written in another file."""

    def test_a_tensor_begins_where_its_witness_lies(self) -> None:
        made = congruent([cast("a", 12, 64), cast("b", 12 + 128, 64), tensor("c", 0, 64)], None, ALL, name="m")
        assert made is not None
        assert names(made) == [["a", "b"], ["c"]]
        assert made.files[0].starts[0] % BLOCK == 12
        assert (made.shared_bytes, made.compared_bytes) == (shared_in(made), 2 * BLOCK)
        assert made.shared_bytes == 2 * BLOCK + 4 * BLOCK

    def test_none_is_read_for_nothing(self) -> None:
        """Small tensors stand anywhere, and so do those whose witness lies on another file system."""
        sharing = Sharing(block_bytes=BLOCK, apart=frozenset({"apart"}), insisted=True)
        tensors = [cast("a", 12, 64), cast("small", 2, 31), cast("elsewhere", 12, 64, file="apart")]
        made = congruent(tensors, None, sharing, name="m")
        assert made is not None
        found = {plan.name: plan.witness for file in made.files for plan in file.tensors}
        assert found == {"a": tensors[0].witness, "small": None, "elsewhere": None}
        assert made.compared_bytes == made.shared_bytes == BLOCK

    def test_it_is_not_what_a_copy_shares(self) -> None:
        plain = replace(tensor("a", 4, 64), witness=tensor("a", 8, 64, file="module").recipe)
        made = congruent([plain], None, ALL, name="m")
        assert made is not None
        assert made.files[0].starts[0] % BLOCK == 4


class TestWorth:
    @pytest.fixture(autouse=True)
    def least(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(module, "LEAST_FILE_BYTES", 1024)
        return

    def test_a_file_in_which_little_is_shared_is_none(self) -> None:
        made = congruent([tensor("a", 4, 512), tensor("b", 8, 64)], None, AUTO, name="m")
        assert names(made) == [["a", "b"]]
        assert made is not None
        assert made.shared_bytes == 31 * BLOCK
        assert names(congruent([tensor("a", 4, 512), tensor("b", 8, 64)], None, ALL, name="m")) == [["a"], ["b"]]

    def test_half_of_the_bytes_must_be_shared(self) -> None:
        cast = tensor("cast", 0, 1000, written=DType.BF16)
        assert congruent([tensor("a", 0, 500), cast], None, AUTO, name="m") is None
        assert names(congruent([tensor("a", 0, 600), cast], None, AUTO, name="m")) == [["a", "cast"]]
        assert names(congruent([tensor("a", 0, 500), cast], None, ALL, name="m")) == [["a", "cast"]]

    def test_small_models_are_copied(self) -> None:
        assert congruent([tensor("a", 0, 128)], None, AUTO, name="m") is None
        assert congruent([], None, ALL, name="m") is None


@pytest.mark.parametrize("seed", range(200))
def test_every_tensor_once_aligned_and_without_gaps(seed: int) -> None:
    dice = random.Random(seed)
    tensors, here = [], 64 * dice.randrange(3)
    for number in range(dice.randrange(1, 12)):
        dtype = dice.choice([DType.F32, DType.F32, DType.F32, DType.BF16, DType.I64])
        numel = dice.choice([0, 1, 3, 16, 40, 64, 100, 128])
        here = -(-here // dtype.itemsize) * dtype.itemsize + dice.choice([0, 0, 0, 64, 4 * dtype.itemsize])
        kind = dice.choice(["copied", "copied", "cast", "witnessed"])
        if kind == "witnessed":
            tensors.append(cast(f"t{number}", here, numel))
        else:
            written = DType.F16 if kind == "cast" else None
            tensors.append(tensor(f"t{number}", here, numel, dtype=dtype, written=written))
        here += numel * dtype.itemsize
    most = dice.choice([None, 400, 1500])
    made = congruent(tensors, most, ALL, name="model.safetensors")
    if made is None:
        return
    assert 0 < made.shared_bytes <= shared_in(made)
    assert 0 <= made.compared_bytes <= made.shared_bytes
    assert sorted(name for names in names(made) for name in names) == sorted(plan.name for plan in tensors)
    for file in made.files:
        here = len(file.header)
        for plan, start in zip(file.tensors, file.starts, strict=True):
            assert start == here
            assert start % plan.dtype.itemsize == 0
            here += plan.nbytes
        assert file.size_bytes == here
        assert most is None or len(file.tensors) == 1 or here - len(file.header) <= most
