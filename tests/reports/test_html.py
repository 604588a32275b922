"""Pages of results: what is in them, that nothing gets out of them, and how a browser draws them."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import torch
from command import zeroconsolidate as run
from fixtures import FIXTURES
from safetensors.torch import load_file, save_file

from zeroconsolidate import BadOption, compare, consolidate, html_report, inspect, verify, verify_source
from zeroconsolidate.reports.look import SCRIPT, STYLE
from zeroconsolidate.reports.markup import Markup, escaped, tag
from zeroconsolidate.reports.save import save

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = FIXTURES / "models" / "_bases" / "llama"
TRAINED = FIXTURES / "models" / "llm_untied_z3" / "checkpoint"
RESUMES = FIXTURES / "trainer_zero3_tied" / "checkpoint"
HOSTILE = "</title><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">&amp;\u202e"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


class Page(HTMLParser):
    """What is in a page: elements with their attributes, texts, and whether all are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name != "meta":
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, text: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(text)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.elements if element == name]


def pages(folder: Path) -> dict[str, str]:
    """One of each kind."""
    incomplete = shutil.copytree(FIXTURES / "z2_w4" / "checkpoint", folder / "incomplete")
    next(incomplete.glob("*/*pp_rank_2_*")).unlink()
    return {
        "checkpoint": html_report(inspect(TRAINED)),
        "incomplete": html_report(inspect(incomplete)),
        "rescue": html_report(consolidate(incomplete, folder / "rescued", rescue=True)),
        "comparison": html_report(compare(TRAINED, LLAMA)),
        "equal": html_report(compare(LLAMA, LLAMA)),
        "verification": html_report(verify(LLAMA)),
        "wrong": html_report(verify(FIXTURES / "models" / "_bases")),
        "source": html_report(verify_source(TRAINED)),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return pages(tmp_path_factory.mktemp("pages"))


KINDS = ("checkpoint", "incomplete", "rescue", "comparison", "equal", "verification", "wrong", "source")


@pytest.mark.parametrize("kind", KINDS)
class TestEveryPage:
    """What holds for all of them."""

    def test_it_is_closed_in_order(self, kind: str, made: dict[str, str]) -> None:
        Page(made[kind])

    def test_nothing_is_loaded(self, kind: str, made: dict[str, str]) -> None:
        """No address is in it, and the policy forbids all but the style and the script."""
        page = Page(made[kind])
        named = [
            (name, key) for name, attributes in page.elements for key in attributes if key in ("src", "srcset", "data")
        ]
        assert named == []
        assert {attributes["href"] for attributes in page.all("a")} == {"#tensors"}
        assert "http" not in re.sub(r"http-equiv", "", made[kind]).lower().replace("https://", "")
        policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
        assert policy is not None
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
        assert len(page.all("script")) == 1
        assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
        assert not re.search(r"url\(|@import", STYLE)
        assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|document\.write", SCRIPT)

    def test_pictures_and_tables_are_described(self, kind: str, made: dict[str, str]) -> None:
        page = Page(made[kind])
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert page.all("html") == [{"lang": "en"}]
        for picture in page.all("svg"):
            if picture.get("aria-hidden") != "true":
                assert picture["role"] == "img"
                assert set((picture["aria-labelledby"] or "").split()) <= set(ids)
        assert len(page.all("caption")) == len(page.all("table"))
        assert all(head["scope"] in ("col", "row") for head in page.all("th"))
        assert len(page.all("figcaption")) == len(page.all("figure"))
        assert len(page.all("h1")) == 1


class TestContent:
    """The numbers are there, as text too."""

    def test_a_comparison(self) -> None:
        found = compare(TRAINED, LLAMA)
        page = Page(html_report(found))
        text = " ".join(page.texts)
        for tensor in found.tensors:
            assert tensor.name in text
        rows = [a["data-v"] for a in page.all("td") if "data-v" in a]
        assert repr(found.tensors[0].figures.relative) in rows
        assert "21 of 21 common tensors" in text

    def test_an_incomplete_checkpoint(self, made: dict[str, str]) -> None:
        page = Page(made["incomplete"])
        assert any("bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt: missing" in text for text in page.texts)
        assert sum(a.get("class") == "lost" for a in page.all("rect")) >= 2  # in the map, and in the bars
        assert any("5 tensors of 20 have lost something" in text for text in page.texts)

    def test_the_map_has_a_square_for_each_file(self) -> None:
        info = inspect(TRAINED)
        page = Page(html_report(info))
        titles = [text for text in page.texts if text.endswith("(there)")]
        assert sorted(name for text in titles for name in text.removesuffix(" (there)").split(" (there), ")) == sorted(
            name for name in info.files if name.endswith("_states.pt")
        )

    def test_suspicions_are_listed(self, tmp_path: Path) -> None:
        shutil.copytree(LLAMA, tmp_path / "bad")
        tensors = load_file(LLAMA / "model.safetensors")
        save_file(
            tensors | {"lm_head.weight": torch.zeros_like(tensors["lm_head.weight"])},
            tmp_path / "bad/model.safetensors",
        )
        found = compare(LLAMA, tmp_path / "bad")
        text = " ".join(Page(html_report(found)).texts)
        assert found.suspicions
        assert all(suspicion in text for suspicion in found.suspicions)

    def test_there_is_none_for_other_things(self, tmp_path: Path) -> None:
        with pytest.raises(BadOption, match="no page for a dict"):
            html_report({})  # type: ignore[arg-type]
        with pytest.raises(BadOption, match="nothing was rescued"):
            html_report(consolidate(TRAINED, tmp_path / "out"))


class TestHostileNames:
    """A name from a checkpoint is a text, wherever it comes in."""

    def model(self, folder: Path, scale: float) -> Path:
        folder.mkdir()
        torch.save(
            {f"layers.0.{HOSTILE}.weight": torch.ones(2, 2) * scale, f"{HOSTILE}\x1b[2J": torch.ones(2)},
            folder / "pytorch_model.bin",
        )
        return folder

    def test_in_every_place(self, tmp_path: Path) -> None:
        found = compare(self.model(tmp_path / "a'<b>", 1), self.model(tmp_path / "b", 2))
        text = html_report(found)
        page = Page(text)
        assert len(page.all("script")) == 1
        assert page.all("img") == page.all("b") == []
        assert any("onerror" in part for part in page.texts)
        assert "\u202e" not in text
        assert "\x1b" not in text

    def test_attributes_too(self) -> None:
        made = tag("td", HOSTILE, title=HOSTILE, data_v='"><script>')
        page = Page(made)
        assert page.elements == [("td", {"title": escaped_back(HOSTILE), "data-v": '"><script>'})]

    def test_only_markup_is_not_escaped(self) -> None:
        assert tag("p", Markup("<b>x</b>"), "<b>") == "<p><b>x</b>&lt;b&gt;</p>"
        assert escaped("a\x00") == "a\\x00"


def escaped_back(text: str) -> str:
    """What a browser makes of the escaped text: marks that turn text around are spelled out."""
    return text.replace("\u202e", "\\u202e")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    full = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
    parts = [int(full[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast(dark: bool) -> None:
    """Of text 4.5 to 1, of the parts of a picture that stand alone 3 to 1 (WCAG 2.1, AA)."""
    light, _, rest = STYLE.partition("@media (prefers-color-scheme:dark)")
    colours = dict(re.findall(r"--(\w+):#([0-9a-f]{3,6})", rest.partition("}}")[0] if dark else light))

    def ratio(a: str, b: str) -> float:
        high, low = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    texts = [("ink", "paper"), ("ink", "band"), ("ink", "badback"), ("soft", "paper"), ("soft", "band"),
             ("bad", "paper"), ("good", "paper")]  # fmt: skip
    assert {pair: ratio(*pair) for pair in texts if ratio(*pair) < 4.5} == {}
    parts = [("focus", "paper"), ("h6", "paper"), ("h4", "paper"), *((f"k{n}", "paper") for n in range(9))]
    assert {pair: ratio(*pair) for pair in parts if ratio(*pair) < 3} == {}


class TestFile:
    """The file is whole, or as it was."""

    def test_it_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        for text in ("one", "two"):
            save(str(path), text)
            assert path.read_text() == text
        assert [each.name for each in tmp_path.iterdir()] == ["report.html"]

    @pytest.mark.parametrize("verb", ["inspect", "verify", "compare"])
    def test_the_command_writes_it(self, verb: str, tmp_path: Path) -> None:
        paths = [TRAINED, LLAMA] if verb == "compare" else [RESUMES]
        done = run(verb, *paths, "--html", tmp_path / "r.html")
        assert done.returncode == (1 if verb == "compare" else 0)
        assert done.stdout
        assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")

    def test_the_rescue_report(self, tmp_path: Path) -> None:
        incomplete = shutil.copytree(FIXTURES / "z2_w4" / "checkpoint", tmp_path / "run")
        options = ["--rescue", "--html", tmp_path / "r.html", "--quiet"]
        done = run("convert", incomplete, tmp_path / "whole", *options)
        assert (done.returncode, (tmp_path / "r.html").exists()) == (0, False)
        assert "nothing was lost" in done.stderr
        next(incomplete.glob("*/*pp_rank_2_*")).unlink()
        assert run("convert", incomplete, tmp_path / "rescued", *options).returncode == 3
        assert "75.7 % of the values" in (tmp_path / "r.html").read_text()
        refused = run("convert", incomplete, tmp_path / "other", "--html", tmp_path / "r.html")
        assert refused.returncode == 2
        assert "--rescue" in refused.stderr

    @pytest.mark.parametrize("place", ["nowhere/r.html", "."])
    def test_a_bad_place_is_refused_before_any_work(self, place: str, tmp_path: Path) -> None:
        done = run("compare", tmp_path / "no-model", LLAMA, "--html", tmp_path / place)
        assert done.returncode == 2
        assert "--html" in done.stderr

    def test_a_run_directory(self, tmp_path: Path) -> None:
        """The page is of its newest save."""
        for step in (3, 6):
            shutil.copytree(RESUMES, tmp_path / "run" / f"checkpoint-{step}")
        assert run("inspect", tmp_path / "run", "--html", tmp_path / "r.html").returncode == 0
        assert "checkpoint-6" in (tmp_path / "r.html").read_text()


def chromium(path: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    """A browser without a window opens the page; what it prints."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={path.parent / 'profile'}", "--virtual-time-budget=20000", *options, path.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=120, check=True)


def drawn(path: Path, *options: str) -> str:
    """The document after the script has run; asserts that the browser complained of nothing."""
    done = chromium(path, *options, "--dump-dom")
    complaints = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    assert complaints == []
    return done.stdout.decode()


@browser
class TestInABrowser:
    """Looked at by Chromium."""

    def thousand_layers(self, folder: Path) -> tuple[Path, Path]:
        torch.manual_seed(0)
        both = []
        for name, drift in (("a", 0.0), ("b", 1e-3)):
            tensors = {"model.embed_tokens.weight": torch.ones(10, 4), "lm_head.weight": torch.ones(10, 4)}
            for n in range(1000):
                for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm"):
                    tensors[f"model.layers.{n}.{part}.weight"] = torch.ones(4, 4) + drift * torch.randn(4, 4) * n / 1000
            (folder / name).mkdir()
            save_file(tensors, folder / name / "model.safetensors")
            both.append(folder / name)
        return both[0], both[1]

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_script_runs_and_nothing_is_refused(self, kind: str, made: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "r.html").write_text(made[kind])
        page = drawn(tmp_path / "r.html")
        tables = page.count('<table class="sortable">')
        assert page.count('aria-sort="none"') == page.count('<button type="button">')
        assert (page.count("<button") > 0) is (tables > 0)

    def test_hostile_names_stay_text(self, tmp_path: Path) -> None:
        models = TestHostileNames()
        found = compare(models.model(tmp_path / "a", 1), models.model(tmp_path / "b", 2))
        (tmp_path / "r.html").write_text(html_report(found))
        page = drawn(tmp_path / "r.html")
        assert "<title>Two models compared</title>" in page
        assert "<img" not in page

    def test_a_column_is_sorted_up_and_down(self, tmp_path: Path) -> None:
        """By a click, as by Enter on the button: the heads are buttons."""
        text = html_report(compare(TRAINED, LLAMA))
        policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
        place = 3  # relative
        for clicks, reverse in ((1, True), (2, False)):
            click = (
                f"<script>for(let n=0;n<{clicks};n++)document.querySelectorAll('th button')[{place}].click()</script>"
            )
            (tmp_path / "r.html").write_text(policy.sub("", text).replace("</body>", f"{click}</body>"))
            page = Page(drawn(tmp_path / "r.html"))
            values = [float(a["data-v"] or "nan") for a in page.all("td") if "data-v" in a][::6]
            assert values == sorted(values, reverse=reverse)
            assert sum(a.get("aria-sort") in ("descending", "ascending") for a in page.all("th")) == 1

    def test_a_thousand_layers(self, tmp_path: Path) -> None:
        found = compare(*self.thousand_layers(tmp_path))
        (tmp_path / "r.html").write_text(html_report(found))
        page = drawn(tmp_path / "r.html")
        assert page.count("<tr>") == 3003
        assert page.count("<rect") >= 3002
        labels = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">(\w+)</text>', page)
        assert labels[-1][1] == "outside"
        places = [float(x) for x, _ in labels]
        assert all(right - left > 20 for left, right in itertools.pairwise(places))

    def test_dark_and_light(self, made: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "r.html").write_text(made["comparison"])
        found = []
        for scheme in ("1", "0"):  # light, dark
            picture = tmp_path / f"{scheme}.png"
            chromium(
                tmp_path / "r.html", f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,700",
                f"--screenshot={picture}",
            )  # fmt: skip
            found.append(first_pixel(picture.read_bytes()))
        assert found == [(255, 255, 255), (13, 17, 23)]

    def test_it_can_be_printed(self, made: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "r.html").write_text(made["comparison"])
        chromium(tmp_path / "r.html", f"--print-to-pdf={tmp_path / 'r.pdf'}", "--no-pdf-header-footer")
        printed = (tmp_path / "r.pdf").read_bytes()
        assert printed.startswith(b"%PDF")
        assert 1 <= len(re.findall(rb"/Type ?/Page\b", printed)) <= 4


def first_pixel(png: bytes) -> tuple[int, ...]:
    """The colour of the upper left pixel: in the first row, every filter leaves it as it is."""
    import struct
    import zlib

    data, at, kind = b"", 8, 0
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        name, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        if name == b"IHDR":
            assert body[8:9] == b"\x08"
            kind = body[9]
        if name == b"IDAT":
            data += body
        at += 12 + size
    assert kind in (2, 6)
    return tuple(zlib.decompress(data)[1:4])
