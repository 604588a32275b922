"""Files of torch, written opcode by opcode: what torch, Python's zipfile and our own reader find in them."""

from __future__ import annotations

import math
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeroconsolidate.archive.container import ZipContainer
from zeroconsolidate.archive.located import LocatedStorage, contiguous
from zeroconsolidate.catalog.rules import SubParameters
from zeroconsolidate.catalog.training import Scaler
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import UnsupportedLayout
from zeroconsolidate.plan.congruent import Sharing
from zeroconsolidate.plan.fragment import ALIGNMENT_BYTES, MOST_MODULUS, fragment, plain_file, plain_fragment
from zeroconsolidate.plan.layout import TensorPlan
from zeroconsolidate.plan.patched import Zeros
from zeroconsolidate.plan.pickled import Stored, pickled
from zeroconsolidate.plan.pieces import View

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate.plan.fragment import FragmentPlan


def planned(shape: tuple[int, ...], dtype: DType = DType.F32, *, around: dict[str, Any] | None = None) -> FragmentPlan:
    recipe = Zeros(math.prod(shape), dtype)
    tensor = TensorPlan(name="a.weight", dtype=dtype, shape=shape, recipe=recipe, is_parameter=True)
    return fragment("zero/a.weight/fp32.pt", tensor, around)


def written(plan: FragmentPlan, data: bytes, path: Path) -> Path:
    path.write_bytes(plan.header + data + plan.tail(zlib.crc32(data)))
    assert path.stat().st_size == plan.size_bytes
    return path


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F64, DType.I64, DType.U8])
@pytest.mark.parametrize("shape", [(2, 3), (), (1,), (0, 4), (1000, 7)])
@pytest.mark.parametrize("around", [None, {"cat_dim": 0}])
def test_torch_loads_it(dtype: DType, shape: tuple[int, ...], around: dict[str, Any] | None, tmp_path: Path):
    value = torch.randn(shape).mul(9).to(getattr(torch, dtype.torch_name))
    data = value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b""
    path = written(planned(shape, dtype, around=around), data, tmp_path / "fp32.pt")
    for how in ({"weights_only": True}, {"weights_only": False}, {"mmap": True}):
        found = torch.load(path, **how)
        if around is not None:
            assert list(found) == ["cat_dim", "param"]
            found = found["param"]
        assert found.dtype == value.dtype
        assert torch.equal(found, value)


def test_the_zip_around_it_is_sound(tmp_path: Path):
    plan = planned((5,), around={"cat_dim": 0})
    path = written(plan, bytes(range(20)), tmp_path / "fp32.pt")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("fp32/data/0") == bytes(range(20))
    assert len(plan.header) % ALIGNMENT_BYTES == 0
    with ZipContainer(str(path)) as container:
        assert container.storage("0", 20) == len(plan.header)
        assert container.checksum("data/0") == (len(plan.header), 20, zlib.crc32(bytes(range(20))))


@pytest.mark.parametrize("more", [-4, 0, 4])
def test_records_of_four_gigabytes(more: int, tmp_path: Path):
    """The data are a hole in the file."""
    plan = planned(((1 << 32) // 4 - 1 + more // 4,))
    path = tmp_path / "fp32.pt"
    with path.open("wb") as file:
        file.write(plan.header)
        file.seek(plan.tail_start)
        file.write(plan.tail(123))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("fp32/data/0")
        assert (info.file_size, info.CRC) == (plan.data_bytes, 123)
        with archive.open(info) as data:
            assert data.read(8) == bytes(8)
    found = torch.load(path, mmap=True, weights_only=True)
    assert found.shape == (plan.data_bytes // 4,)
    assert found[-1] == 0
    with ZipContainer(str(path)) as container:
        assert container.storage("0", plan.data_bytes) == len(plan.header)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 80), 1 << 80) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=VALUES)
def test_plain_values_come_back(value: object):
    import pickle

    assert pickle.loads(pickled(value)) == value
    assert type(pickle.loads(pickled(value))) is type(value)


def test_a_file_of_plain_values(tmp_path: Path):
    plan = plain_fragment("zero/a/step.pt", {"step": 3})
    assert plan.header == plain_file("step.pt", {"step": 3})
    assert (plan.data_bytes, plan.tail(0), plan.size_bytes) == (0, b"", len(plan.header))
    (tmp_path / "step.pt").write_bytes(plan.header)
    assert torch.load(tmp_path / "step.pt", weights_only=True) == {"step": 3}


def test_a_loss_scaler_comes_back_as_deepspeeds(tmp_path: Path):
    loss_scaler = pytest.importorskip("deepspeed.runtime.fp16.loss_scaler")
    attributes = {"cur_scale": 128, "dynamic": True, "dtype": DType.F16}
    data = plain_file("optimizer_state.pt", {"loss_scaler": Scaler(name="DynamicLossScaler", attributes=attributes)})
    (tmp_path / "optimizer_state.pt").write_bytes(data)
    found = torch.load(tmp_path / "optimizer_state.pt", weights_only=False)["loss_scaler"]
    assert type(found) is loss_scaler.DynamicLossScaler
    assert vars(found) == attributes | {"dtype": torch.float16}


def test_sub_parameters_come_back_as_deepspeeds(tmp_path: Path):
    universal = pytest.importorskip("deepspeed.checkpoint.universal_checkpoint")
    data = plain_file("fp32.pt", {"sub": SubParameters(patterns=("qkv", "b"), shape=((2, 1, 1), 3), dim=0)})
    (tmp_path / "fp32.pt").write_bytes(data)
    found = torch.load(tmp_path / "fp32.pt", weights_only=False)["sub"]
    assert type(found) is universal.SubparamShape
    assert (found.patterns, found.shape, found.partition_dim) == (["qkv", "b"], ((2, 1, 1), 3), 0)


@pytest.mark.parametrize("value", [object(), b"bytes", {1}, 1 << 3000, Stored("0", DType.F8_E5M2, (1,), 1)])
def test_what_cannot_be_written(value: object):
    with pytest.raises(UnsupportedLayout, match="cannot be written into a checkpoint"):
        pickled([value])


class TestShared:
    """The tensor begins where the input's bytes lie within a block."""

    SIZE = 100_000

    def planned(self, start: int, sharing: Sharing | None, *, size: int = SIZE) -> FragmentPlan:
        storage = LocatedStorage(
            file="optim_states.pt", key="0", start=start, numel=size // 4, dtype=DType.F32, big_endian=False
        )
        recipe = View(contiguous(storage, (size // 4,)))
        tensor = TensorPlan(name="w", dtype=DType.F32, shape=(size // 4,), recipe=recipe, is_parameter=True)
        return fragment("zero/w/fp32.pt", tensor, {"cat_dim": 0}, sharing=sharing)

    @pytest.mark.parametrize("start", [0, 4, 4095 & ~3, 4096, 12_345 & ~3, 1_000_000])
    @pytest.mark.parametrize("block_bytes", [1024, 4096, MOST_MODULUS])
    def test_torch_loads_it(self, start: int, block_bytes: int, tmp_path: Path):
        plan = self.planned(start, Sharing(block_bytes=block_bytes, apart=frozenset(), insisted=False))
        assert len(plan.header) % block_bytes == start % block_bytes
        whole_blocks = (start + self.SIZE) // block_bytes - -(-start // block_bytes)
        assert plan.shared_bytes == whole_blocks * block_bytes
        value = torch.randn(self.SIZE // 4)
        path = written(plan, value.numpy().tobytes(), tmp_path / "fp32.pt")
        for how in ({"weights_only": True}, {"weights_only": False}, {"mmap": True}):
            assert torch.equal(torch.load(path, **how)["param"], value)
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
        with ZipContainer(str(path)) as container:
            assert container.start("data/0") == len(plan.header)

    @pytest.mark.parametrize(
        ("size", "sharing"),
        [
            (SIZE, Sharing(block_bytes=4096, apart=frozenset({"optim_states.pt"}), insisted=True)),
            (SIZE, Sharing(block_bytes=2 * MOST_MODULUS, apart=frozenset(), insisted=True)),
            (60_000, Sharing(block_bytes=4096, apart=frozenset(), insisted=False)),
            (4000, Sharing(block_bytes=4096, apart=frozenset(), insisted=True)),
        ],
        ids=["on another disk", "of larger blocks than a header can be padded by", "small", "less than a block"],
    )
    def test_not(self, size: int, sharing: Sharing):
        plan = self.planned(4, sharing, size=size)
        assert plan == self.planned(4, None, size=size)
        assert plan.shared_bytes == 0
        assert len(plan.header) % ALIGNMENT_BYTES == 0

    def test_always_shares_small_ones(self):
        assert self.planned(4, Sharing(block_bytes=4096, apart=frozenset(), insisted=True), size=60_000).shared_bytes
