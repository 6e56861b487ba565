"""The page in a real browser: nothing overflows at any width, no error on the console, the one script runs.

Needs chromium (or chrome) on the PATH; skipped with a reason where there is none.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.unit.counterfactual_page import counterfactual_page
from tests.unit.report_runs import attention, fabricate, judged, nearest_gallery, reasons

from unfooled.report import render
from unfooled.report.study_page import render_study

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the PATH")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
    "--virtual-time-budget=3000",
)  # fmt: skip
WIDTHS = (320, 360, 390, 600, 1000, 1280)
LONG = "models/" + "a_very_long_name_without_any_space_" * 4 + ".pt"

# Opens every fold, then reports the page's width and whatever sticks out of it outside a container that scrolls.
# On a phone the contents, nav, are a row that scrolls, as tables in .scroll do.
MEASURE = """<script>
addEventListener("load", () => {
  for (const d of document.querySelectorAll("details")) d.open = true;
  const width = document.documentElement.clientWidth;
  const out = [...document.body.querySelectorAll("*")].filter((e) => !e.closest(
    ".scroll > *, nav > *, .hidden, .skip, legend")
    && e.getBoundingClientRect().right > width + 0.5).map((e) => e.tagName + "." + e.getAttribute("class"));
  const small = [...document.querySelectorAll("main p, main td, main dt, main dd, main text, main li")].filter(
    (e) => e.getClientRects().length && e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 12);
  const scrolled = document.documentElement.scrollWidth;
  parent.postMessage({ name: window.name, width, scrolled, out, small: small.length }, "*");
});
</script>"""
# Listens before the first frame is there.
COLLECT = """<!doctype html><body><script>
addEventListener("message", (e) => {
  const p = document.createElement("pre");
  p.textContent = JSON.stringify(e.data);
  document.body.append(p);
});
</script>%s</body>"""


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's elements after its scripts ran, and what the console said."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def study_folder(folder: Path) -> Path:
    """A study's folder: long names, wide tables, a claim of each verdict."""
    claims = [
        {"claim": LONG, "source": LONG, "verdict": v, "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
        for v in ("holds", "fails", "undecided")
    ]
    found = {
        "study": "made-up", "title": LONG, "scale": "small", "seeds": [0, 1], "seconds": 7.0,
        "environment": {"a": LONG}, "claims": claims,
        "tables": {"A table": [{f"column {k}": "words " * (k + 1) for k in range(12)}]},
        "notes": [LONG], "pictures": [], "command": f"unfooled study {LONG}", "created": "2026-05-03T14:22:05+00:00",
    }  # fmt: skip
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    fabricate(
        folder / "a", warnings=["Gradients vanish."], model=LONG, command=f"unfooled audit {LONG}", title=LONG,
        **nearest_gallery([0.1, 0.2, 0.4]),
    )  # fmt: skip
    fabricate(
        folder / "b",
        seed=1,
        model="second.pt",
        reasons=reasons(),
        threat="l2:0.5",
        noise_unit="of the range of the inputs",
        attention=attention(),
    )
    fabricate(folder / "c", shape=(30,), classes=30, examples=2)
    fabricate(folder / "d", examples=2, title="d", reasons=reasons(attack=0.4), **judged("OVERSTATED", because=LONG))
    fabricate(folder / "e", examples=2, title="e", **judged("NOT EVALUABLE", threat="linf:8/255"))
    edits = folder / "edits.html"
    edits.write_text(counterfactual_page(LONG), encoding="utf-8")
    return {
        "edits": edits,
        "study": render_study(study_folder(folder / "study")),
        "one": render([folder / "a"], folder / "one.html"),
        "two": render([folder / "a", folder / "b"], folder / "two.html"),
        "bars": render([folder / "c"], folder / "bars.html"),
        "doubted": render([folder / "d"], folder / "doubted.html"),
        "void": render([folder / "e", folder / "d", folder / "a"], folder / "void.html"),
    }


def test_nothing_overflows_at_any_width(pages: dict[str, Path], tmp_path: Path) -> None:
    frames = []
    for name, path in pages.items():
        source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
        (tmp_path / f"{name}.html").write_text(source.replace("</head>", f"{MEASURE}</head>"), encoding="utf-8")
        frames += [f'<iframe name="{name} {w}" src="{name}.html" width="{w}" height="900"></iframe>' for w in WIDTHS]
    (tmp_path / "all.html").write_text(COLLECT % "".join(frames), encoding="utf-8")
    dom, _ = browse(tmp_path / "all.html", tmp_path / "profile")
    found = [json.loads(html.unescape(text)) for text in re.findall(r"<pre>(.*?)</pre>", dom)]
    measured: dict[str, dict[str, Any]] = {one["name"]: one for one in found}
    assert set(measured) == {f"{name} {w}" for name in pages for w in WIDTHS}
    for name, one in measured.items():
        assert one["scrolled"] <= one["width"], (name, one)
        assert not one["out"], (name, one)
        assert not one["small"], (name, one)


@pytest.mark.parametrize("name", ["one", "two", "study", "edits"])
def test_no_errors_and_the_script_runs(pages: dict[str, Path], name: str, tmp_path: Path) -> None:
    dom, console = browse(pages[name], tmp_path / "profile")
    assert console == []
    buttons = re.findall(r"<button[^>]*data-copy[^>]*>", dom)
    assert len(buttons) == {"one": 1, "two": 2, "study": 1, "edits": 1}[name]
    assert not any("hidden" in button for button in buttons)  # its policy lets the page's own script run
