"""What is written and printed is what the schemas in docs/schemas/ describe, and nothing is without a description."""

from __future__ import annotations

import json
import shutil
import signal
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from command import REPOSITORY, python
from fixtures import FIXTURES

from zeroconsolidate.cli import main
from zeroconsolidate.write import part
from zeroconsolidate.write.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = REPOSITORY / "docs/schemas"
TRAINER = FIXTURES / "trainer_zero3_tied/checkpoint"
WITH_EXPERTS = FIXTURES / "layouts/moe_ep4_z1/checkpoint"


@cache
def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def closed(part: Any) -> Any:
    """A schema that allows no other keys than those it describes: readers may meet new ones, we write none."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    made = {key: closed(value) for key, value in part.items()}
    if made.get("type") == "object" and isinstance(made.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    return made


def validate(content: object, name: str) -> None:
    jsonschema.Draft202012Validator(closed(schema(name))).validate(content)


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_they_are_schemas(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))
    page = (REPOSITORY / "docs/file-formats.md").read_text()
    assert f"(schemas/{path.name})" in page


@pytest.mark.parametrize(
    ("checkpoint", "options"),
    [
        ("trainer_zero3_tied", []),
        ("trainer_zero3_tied", ["--digest", "sha256", "--max-shard-size", "20KB", "--optimizer"]),
        ("trainer_zero3_tied", ["--digest", "xxh3", "--dtype", "bf16"]),
        ("z2_bf16", ["--include", "layers.*", "--rename", "layers.=blocks."]),
        ("models/lora_z3", []),
        ("models/m3_z3", []),
    ],
)
def test_manifests(checkpoint: str, options: list[str], tmp_path: Path) -> None:
    if "xxh3" in options:
        pytest.importorskip("xxhash")
    assert main(["convert", "-q", f"{FIXTURES / checkpoint}/checkpoint", f"{tmp_path}/out", *options]) == 0
    content = json.loads((tmp_path / "out/zeroconsolidate.json").read_text())
    validate(content, "manifest")
    broken = [content | {"manifest": 2}, content | {"source": {}}, {**content, "files": {"a": {"sha256": "x"}}}]
    for each in broken:
        with pytest.raises(jsonschema.ValidationError):
            validate(each, "manifest")


def test_the_manifest_of_a_universal_checkpoint(tmp_path: Path) -> None:
    assert main(["universal", "-q", str(FIXTURES / "z2_bf16/checkpoint"), str(tmp_path / "out")]) == 0
    validate(json.loads((tmp_path / "out/zeroconsolidate.json").read_text()), "manifest")


def test_rescue_reports(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "z2_w4/checkpoint", run)
    for path in run.glob("*/*pp_rank_2_*"):
        path.unlink()
    for verb in ("convert", "universal"):
        assert main([verb, "-q", "--rescue", str(run), str(tmp_path / verb)]) == 3
        content = json.loads((tmp_path / verb / "rescue-report.json").read_text())
        validate(content, "rescue-report")
        assert content["tensors"]
        validate(json.loads((tmp_path / verb / "zeroconsolidate.json").read_text()), "manifest")


def records(journal: Path) -> list[dict[str, Any]]:
    """As docs/file-formats.md says they are read."""
    found = []
    for line in journal.read_bytes().splitlines():
        crc, _, text = line.partition(b" ")
        assert crc == b"%08x" % zlib.crc32(text)
        found.append(json.loads(text))
    return found


def test_journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, Any]] = []
    close = Journal.close

    def read_first(self: Journal) -> None:
        for journal in tmp_path.glob("out*/.zeroconsolidate/journal"):
            kept.extend(records(journal))
        close(self)

    monkeypatch.setattr(Journal, "close", read_first)
    monkeypatch.setattr(part, "SYNC_BYTES", 1000)  # so that files of this size are synced in several parts
    for number, options in enumerate(([], ["--digest", "sha256"])):
        assert main(["convert", "-q", str(TRAINER), str(tmp_path / f"out{number}"), *options]) == 0
    source = FIXTURES / "trainer_zero2_bf16/checkpoint"
    assert main(["convert", "-q", str(source), str(tmp_path / "out2")]) == 0
    assert main(["convert", "-q", str(TRAINER), str(tmp_path / "parts"), "--part", "1/1"]) == 0
    for name in ("journal", "parts/1-of-1"):
        kept += records(tmp_path / "parts/.zeroconsolidate" / name)
    for record in kept:
        validate(record, "journal-record")
    assert {"begin", "checked", "upto", "done", "publish"} <= {key for record in kept for key in record}
    with pytest.raises(jsonschema.ValidationError):
        validate({"file": "model.safetensors"}, "journal-record")


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    for step in (3, 6):
        shutil.copytree(TRAINER, run / f"checkpoint-{step}")
    next((run / "checkpoint-6").glob("*/*rank_1*optim*")).unlink()
    return run


@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("conversion", ["convert", TRAINER, "OUT/a"], 0),
        ("conversion", ["convert", FIXTURES / "models/lora_z3/checkpoint", "OUT/b", "--dtype", "bf16"], 0),
        ("conversion", ["universal", FIXTURES / "z2_bf16/checkpoint", "OUT/c"], 0),
        ("conversion", ["convert", "RUN/checkpoint-6", "OUT/d", "--rescue=zeros"], 3),
        ("part", ["convert", TRAINER, "OUT/p", "--part", "2/3"], 0),
        ("dry-run", ["convert", TRAINER, "OUT/e", "--dry-run"], 0),
        ("dry-run", ["universal", TRAINER, "OUT/e", "--dry-run"], 0),
        ("checkpoint", ["inspect", TRAINER, "--tensors"], 0),
        ("checkpoint", ["inspect", "RUN/checkpoint-6"], 3),
        ("checkpoint", ["inspect", WITH_EXPERTS], 0),
        ("run", ["inspect", "RUN"], 3),
        ("verification", ["verify", "MODEL"], 0),
        ("verification", ["verify", "MODEL", TRAINER], 0),
        ("verification", ["verify", TRAINER], 0),
        ("watched", ["watch", "RUN", "OUT/{name}", "--idle", "0.2", "--interval", "0.1"], None),
        ("pruning", ["prune", "RUN", "--keep", "1"], 0),
        ("environment", ["env"], 0),
        ("error", ["inspect", "nowhere"], 2),
        ("error", ["convert", "RUN/checkpoint-6", "OUT/f"], 2),
        ("error", ["convert", TRAINER, "OUT/g", "--dtpye", "bf16"], 2),
    ],
)
def test_what_is_printed(
    name: str,
    words: list[object],
    code: int | None,
    run_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model"
    if "MODEL" in words:
        assert main(["convert", "-q", str(TRAINER), str(model)]) == 0
    spelled = {"OUT": str(tmp_path), "RUN": str(run_directory), "MODEL": str(model)}
    typed = [str(word) for word in words]
    for placeholder, path in spelled.items():
        typed = [word.replace(placeholder, path, 1) if word.startswith(placeholder) else word for word in typed]
    done = main([*typed, "--json"])
    assert done == code or code is None
    lines = capsys.readouterr().out.splitlines()
    assert lines
    for line in lines:
        validate(json.loads(line), f"output-{name}")


def test_an_interruption_is_an_error_too(tmp_path: Path) -> None:
    """The process ends by a signal: the object is one of an error."""
    code = (
        "import os, signal, sys\n"
        "from zeroconsolidate.cli import actions, main\n"
        "actions.ACTIONS['inspect'] = lambda given: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"sys.exit(main(['inspect', {str(TRAINER)!r}, '--json']))"
    )
    done = python(code)
    assert done.returncode == 128 + signal.SIGTERM
    validate(json.loads(done.stdout), "output-error")
