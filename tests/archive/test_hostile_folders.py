"""A folder leads nowhere but into itself: links, pipes, names, `latest`, and what is copied beside the weights."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from fixtures import FIXTURES
from hostile import MEMORY_BYTES, MODEL, limit_child, refusal
from zero_model import Run, save

import zeroconsolidate
from zeroconsolidate.archive import discover, regular
from zeroconsolidate.archive.regular import Fence, open_regular, read_small
from zeroconsolidate.cli.command import main
from zeroconsolidate.errors import DamagedFile, UnsafePath
from zeroconsolidate.outputs import assets

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def good(tmp_path) -> Path:
    """A checkpoint that converts, with a config."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save(Run(stage=2, world_size=2, groups=[{"a": torch.randn(3, 4)}]), folder)
    (folder / "config.json").write_text('{"dtype": "bfloat16"}')
    return folder


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "secret"
    path.write_text("private key")
    return path


def tag_of(folder: Path) -> Path:
    return folder / (folder / "latest").read_text()


def convert(folder: Path) -> str:
    """The refusal of a conversion, which must come before anything is written."""
    output = folder.parent / "output"
    said = refusal("convert", str(folder), str(output))
    assert not output.exists()
    return said


def test_the_checkpoint_is_good(good, tmp_path):
    assert main(["convert", "--quiet", str(good), str(tmp_path / "output")]) == 0


# --- links


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "README.md"])
def test_no_file_is_published_through_a_link(good, secret, name):
    (good / name).unlink(missing_ok=True)
    (good / name).symlink_to(secret)
    assert "a link out of its directory" in convert(good)


def test_no_file_is_published_through_a_link_in_a_folder(good, secret):
    (good / "1_Pooling").mkdir()
    (good / "1_Pooling" / "config.json").symlink_to(secret)
    assert "a link out of its directory" in convert(good)


def test_no_folder_is_published_through_a_link(good, secret):
    (secret.parent / "private").mkdir()
    shutil.copy(secret, secret.parent / "private")
    (good / "1_Pooling").symlink_to(secret.parent / "private")
    assert "a link out of its directory" in convert(good)


def test_remote_code_is_not_a_link(good, secret):
    (good / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling_x.Model"}}))
    (good / "modeling_x.py").symlink_to(secret)
    assert "a link out of its directory" in convert(good)


def test_base_models_are_watched_too(good, secret, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer.json").symlink_to(secret)
    said = refusal("convert", str(good), str(tmp_path / "output"), "--base", str(base))
    assert "a link out of its directory" in said


def test_rank_files_are_not_links_that_lead_out(good, tmp_path):
    elsewhere = tmp_path / "elsewhere.pt"
    shutil.move(tag_of(good) / MODEL, elsewhere)
    (tag_of(good) / MODEL).symlink_to(elsewhere)
    assert "a link out of its directory" in convert(good)


def test_a_tag_is_not_a_link_that_leads_out(good, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    tag = tag_of(good)
    shutil.move(tag, elsewhere)
    tag.symlink_to(elsewhere)
    assert "a link out of its directory" in convert(good)
    assert zeroconsolidate.inspect(elsewhere).stage == 2  # what the error advises: name the folder itself


def moved_out(path: Path, elsewhere: Path) -> None:
    """Replace a file or folder by a link to where it is now."""
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("what", ["zero", "zero/embed.weight", "zero/embed.weight/fp32.pt", "zero/optimizer_state.pt"])
def test_a_universal_folder_leads_nowhere(tmp_path, what):
    folder = tmp_path / "checkpoint"
    shutil.copytree(FIXTURES / "layouts/universal_z1/checkpoint", folder)
    assert "a link out of its directory" not in str(zeroconsolidate.inspect(folder).notes)
    moved_out(folder / "global_step3_universal" / what, tmp_path / "elsewhere")
    assert "a link out of its directory" in convert(folder)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_folder_of_swapped_masters_leads_nowhere(tmp_path, depth):
    folder = tmp_path / "checkpoint"
    shutil.copytree(FIXTURES / "layouts/nvme_z3/checkpoint", folder)
    master = next(path for path in folder.rglob("*.tensor.swp") if "-" not in path.name)
    moved_out([master, *master.parents][2 - depth], tmp_path / "elsewhere")
    assert "a link out of its directory" in convert(folder)


def test_an_adapters_config_is_not_a_link(good, secret):
    """Whatever JSON it leads to would be published beside the adapter."""
    secret.write_text('{"peft_type": "LORA"}')
    (good / "adapter_config.json").symlink_to(secret)
    assert "a link out of its directory" in convert(good)


def test_latest_is_not_a_link_that_leads_out(good, secret):
    (good / "latest").unlink()
    (good / "latest").symlink_to(secret)
    assert "a link out of its directory" in convert(good)


def test_links_inside_are_followed(good, tmp_path):
    tag = tag_of(good)
    shutil.move(tag / MODEL, good / "moved.pt")
    (tag / MODEL).symlink_to("../moved.pt")
    (good / "tokenizer.json").symlink_to("config.json")
    assert main(["convert", "--quiet", str(good), str(tmp_path / "output")]) == 0
    assert not (tmp_path / "output" / "tokenizer.json").is_symlink()


def test_a_path_through_a_link_is_the_users_own(good, tmp_path):
    (tmp_path / "link").symlink_to(good)
    assert main(["convert", "--quiet", str(tmp_path / "link"), str(tmp_path / "output")]) == 0


def test_the_hugging_face_cache_is_made_of_links(good, tmp_path):
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    shutil.copytree(good, snapshot)
    for path in [*snapshot.rglob("*.pt"), snapshot / "config.json"]:
        shutil.move(path, blobs / path.name)
        path.symlink_to(os.path.relpath(blobs / path.name, path.parent))
    assert main(["convert", "--quiet", str(snapshot), str(tmp_path / "output")]) == 0


def test_a_link_to_itself_is_not_followed(good, tmp_path):
    (good / "unknown").symlink_to("unknown")
    assert main(["convert", "--quiet", str(good), str(tmp_path / "output")]) == 0
    (good / "tokenizer.json").symlink_to("tokenizer.json")
    shutil.rmtree(tmp_path / "output")
    assert "cannot be read" in convert(good)


# --- what is no regular file


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["latest", "config.json", "tokenizer.json"])
def test_pipes_are_not_opened_to_wait(good, name):
    as_pipe(good / name)
    assert "a pipe; expected a regular file" in convert(good)


def test_a_pipe_as_a_rank(good):
    as_pipe(tag_of(good) / MODEL)
    assert "a pipe; expected a regular file" in convert(good)


def test_a_pipe_in_place_of_a_rank_later(good, tmp_path):
    """Between planning and reading, the file is replaced."""
    checkpoint = zeroconsolidate.open_checkpoint(good)
    for path in tag_of(good).iterdir():
        as_pipe(path)
    with pytest.raises(UnsafePath, match="a pipe"):
        checkpoint["a"].load()


def test_a_directory_as_a_rank(good):
    (tag_of(good) / MODEL).unlink()
    (tag_of(good) / MODEL).mkdir()
    assert "a directory; expected a regular file" in convert(good)


def test_devices_are_not_read():
    with pytest.raises(UnsafePath, match="a device"):
        open_regular("/dev/zero")


# --- latest and tags


@pytest.mark.parametrize("text", ["../x", "/etc", "a/b", "..", ".", "", "a\\b", "a\nb", "\x1b[2J", "a\0b"])
def test_latest_names_a_folder_beside_it(good, text):
    (good / "latest").write_text(text)
    assert "must name a folder beside it" in convert(good)


def test_latest_is_short(good):
    (good / "latest").write_text("é" * 3000)
    assert "too large" in convert(good)


def test_latest_is_text(good):
    (good / "latest").write_bytes(b"\xff\xfe")
    assert "is not text" in convert(good)


def test_latest_of_a_terabyte(good):
    os.truncate(good / "latest", 1 << 40)
    assert "too large" in convert(good)


@pytest.mark.parametrize("tag", ["../checkpoint/global_step7", "/etc", "..", ".", "", "x" * 10_000, "\x1b[2J"])
def test_tags_are_folders_of_the_checkpoint(good, tmp_path, tag):
    said = refusal("convert", str(good), str(tmp_path / "output"), "--tag", tag)
    assert "no tag" in said or "holds no checkpoint files" in said


def test_numbers_that_are_no_digits(good, tmp_path):
    """`"²".isdigit()` is true, `int("²")` an error."""
    (good / "global_step²").mkdir()
    (good / "٣").mkdir()
    assert main(["convert", "--quiet", str(good), str(tmp_path / "output")]) == 0


def test_directories_are_read_to_a_limit(good, monkeypatch):
    monkeypatch.setattr(regular, "MAX_ENTRIES", 3)
    for number in range(4):
        (good / f"x{number}").mkdir()
    assert "too many entries" in convert(good)


def test_folders_beside_the_tags_are_looked_into_to_a_limit(good, monkeypatch):
    """So many entries of all of them together, and one of each, each time: a checkpoint is looked for, and found, and
    its saves are listed."""
    folders = "abcde"
    for folder in folders:
        (good / folder).mkdir()
        for number in range(50):
            (good / folder / f"x{number}").touch()
    looked_at = []
    true = discover.names.parse
    monkeypatch.setattr(discover.names, "parse", lambda name: (looked_at.append(name), true(name))[1])
    monkeypatch.setattr(discover, "MAX_ENTRIES", 20)
    assert zeroconsolidate.inspect(good).world_size == 2
    assert sum(name.startswith("x") for name in looked_at) <= 4 * (20 + len(folders))


def test_long_lists_are_cut_in_errors(good):
    (good / "latest").unlink()
    for number in range(60):
        shutil.copytree(tag_of_copy(good), good / f"global_step{100 + number}")
    assert "more" in convert(good)


def tag_of_copy(good: Path) -> Path:
    return next(path for path in good.iterdir() if path.is_dir())


# --- beside the weights


def test_configs_nested_to_overflow(good):
    (good / "config.json").write_text("[" * 200_000)
    assert "nested too deeply" in convert(good)


def test_configs_of_a_terabyte(good):
    os.truncate(good / "config.json", 1 << 40)
    assert "too large" in convert(good)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"dtype": "bfloat16"'])
def test_configs_that_are_no_json(good, text):
    (good / "config.json").write_bytes(text)
    assert "config.json is not JSON" in convert(good)


@pytest.mark.parametrize(
    "text",
    [
        '{"x": LONG}',
        '{"model_type": LONG, "rope_parameters": {"rope_theta": LONG}}',
        '{"rope_parameters": {"rope_theta": 1.0, "rope_type": "linear", "factor": LONG}}',
    ],
)
def test_long_numbers_in_configs_cost_nothing(text, good, tmp_path):
    (good / "config.json").write_text(text.replace("LONG", "9" * 5_000_000))
    assert main(["convert", "--quiet", str(good), str(tmp_path / "output")]) == 0


def test_tokenizers_of_a_terabyte(good):
    (good / "tokenizer.json").touch()
    os.truncate(good / "tokenizer.json", 1 << 40)
    assert "too large to be copied with the weights" in convert(good)


def test_large_tokenizers_are_copied_in_blocks(good, tmp_path):
    """In the child there is no room for the whole file."""
    (good / "tokenizer.json").touch()
    os.truncate(good / "tokenizer.json", 2 * MEMORY_BYTES)
    child = os.fork()
    if not child:
        limit_child()
        os._exit(main(["convert", "--quiet", str(good), str(tmp_path / "output")]))
    assert os.waitpid(child, 0)[1] == 0


def test_files_beside_the_weights_are_counted(good, monkeypatch):
    monkeypatch.setattr(assets, "MAX_ASSETS", 5)
    for number in range(6):
        (good / f"x{number}").touch()
    assert "too many files to copy with the weights" in convert(good)


def test_files_in_folders_are_counted(good, monkeypatch):
    monkeypatch.setattr(assets, "MAX_ASSETS", 20)
    (good / "1_Pooling").mkdir()
    for number in range(21):
        (good / "1_Pooling" / f"x{number}").touch()
    assert "too many files to copy with the weights" in convert(good)


@pytest.mark.parametrize("reference", ["{}.Model", "../secret.Model", "a/../../secret.Model", "", ".", "--.x"])
def test_remote_code_is_looked_for_beside_the_config(good, tmp_path, reference):
    victim = tmp_path / "victim.py"
    victim.write_text("secret = 1")
    auto_map = {"AutoModel": reference.format(str(victim).removesuffix(".py"))}
    (good / "config.json").write_text(json.dumps({"auto_map": auto_map}))
    chosen = assets.choose(str(good), None, tags=())
    assert set(chosen.copies) == {"config.json"}


def test_remote_code_that_imports_in_circles(good):
    (good / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "x.Model"}}))
    (good / "x.py").write_text("from .y import Y\nfrom . import z, x\n")
    (good / "y.py").write_text("from .x import X\n" + "(" * 100_000)
    (good / "z.py").write_text("    from .w import (\n  W)\n")
    (good / "w.py").touch()
    assert set(assets.choose(str(good), None, tags=()).copies) == {"config.json", "x.py", "y.py", "z.py", "w.py"}


def test_terminals_are_not_steered(good, tmp_path, capsys):
    (good / "evil\x1b]0;title\x07.txt").touch()
    (good / os.fsdecode(b"bytes\xff.txt")).touch()
    (good / "events.out.\x1b]0;title\x07").touch()
    assert main(["convert", str(good), str(tmp_path / "output")]) == 0
    report, warnings = capsys.readouterr()
    assert "events.out.\\x1b]0;title\\x07" in report
    assert "evil\\x1b]0;title\\x07.txt" in warnings
    assert "bytes\\udcff.txt" in warnings
    assert "\x1b" not in report + warnings


# --- the tools themselves


def test_small_files_have_a_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert read_small(str(tmp_path / "a"), 11) == b"x" * 11
    with pytest.raises(DamagedFile, match="at most 10"):
        read_small(str(tmp_path / "a"), 10)
    with pytest.raises(DamagedFile, match="no such file"):
        read_small(str(tmp_path / "b"), 10)


def test_a_fence_is_not_its_neighbours(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").touch()
    with pytest.raises(UnsafePath):
        Fence(str(tmp_path / "a")).check(str(tmp_path / "ab"))
    with pytest.raises(UnsafePath):
        Fence(str(tmp_path / "a")).check(str(tmp_path / "a" / ".." / "ab"))
    Fence("/").check(str(tmp_path / "ab"))
