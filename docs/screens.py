"""Pictures of the first screens of pages, for docs/screens.md: nine pages at three widths, in both themes, and printed.

    python docs/screens.py FOLDER              the runs in FOLDER where they are missing, their pages, and the pictures
    python docs/screens.py FOLDER --only study index

The demo takes minutes; the other runs are small, 100 images and fewer. Needs Chromium, Pillow, and for the printed page
pypdfium2.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import unfooled as uf
from unfooled.certification import interval_margins
from unfooled.purification import fit_purifier, guard
from unfooled.report import render
from unfooled.report.study_page import render_study
from unfooled.training import Batches, Ibp, Madry, Ramp, initialise_for_intervals, train
from unfooled.workflows import AuditOptions, Inputs
from unfooled.workflows.demonstrating import TITLE

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "assets" / "screens"
STUDY = ROOT / "benchmarks" / "results" / "attackability-small.json"
WIDTHS = {1280: 900, 768: 1024, 390: 844}
"""Width of the window -> height of the first screen."""
RADII = (0.02, 0.05, 0.1, 0.15, 0.2)
COLOURS = 200
FEW = AuditOptions(effort="quick", reasons="none")
FEWEST = uf.Plan(effort=uf.QUICK, reasons=None, nearest_n=8, nearest_budget=100, explain_n=4, floor=2000)


class Abstaining(nn.Module):
    """Two networks that give no answer where they disagree.

    Args:
        nets: The networks.
    """

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """Return the average of the logits; NaN where the classes differ."""
        p, q = (net(x) for net in self.nets)
        return ((p + q) / 2).masked_fill((p.argmax(1) != q.argmax(1))[:, None], torch.nan)


def demo(folder: Path) -> Path:
    """Run the demo; finished runs in the folder are only rendered anew."""
    if not (folder / "hardened" / "summary.json").is_file():
        uf.workflows.demo(folder)
    return render([folder / "standard", folder / "hardened"], folder / "report.html", title=TITLE)


def undefended(folder: Path) -> Path:
    """Render the run of the demo's standard network alone."""
    return render([folder.parent / "demo" / "standard"], folder / "report.html")


def not_evaluable(folder: Path) -> Path:
    """Audit two networks that give no answer where they disagree."""
    nets = [uf.load_model(_weights(folder, name)) for name in ("standard", "hardened")]
    x, y = uf.load_data("digits", n=40)
    right = torch.stack([net(x).argmax(1) == y for net in nets]).all(0)
    about = {"title": "a network that abstains", "data": "digits"}
    model, plan = Abstaining(*nets).eval(), FEW.plan(uf.Linf(0.15))
    uf.audit(model, x[right], y[right], uf.Linf(0.15), plan=plan, out=folder, about=about)
    return render([folder], folder / "report.html")


def certified(folder: Path) -> Path:
    """Audit the demo's hardened network, with proofs that leave much open."""
    options = AuditOptions(effort="quick", reasons="none", certify="quick")
    uf.workflows.audit(
        _inputs(folder, "hardened", 30), "linf:0.15", options=options, out=folder, title="proofs from below"
    )
    return folder / "report.html"


def narrow(folder: Path) -> Path:
    """Train a network for proofs, and audit it: little is open."""
    folder.mkdir(parents=True, exist_ok=True)
    threat = uf.Linf(0.1)
    net = _small()
    initialise_for_intervals(net, torch.Generator().manual_seed(0))
    x, y = uf.load_data("digits", split="train")
    loss = Ramp(Ibp(threat, interval_margins, clean=0.0), 30, 5)
    adam = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in train(net, Batches(x, y, 64, 0), loss, adam, epochs=60, seed=0):
        pass
    return _proven(net.eval(), threat, folder, 100, "quick", "a network trained for proofs")


def exact(folder: Path) -> Path:
    """Audit a small network at a small radius, where branch and bound decides every sample."""
    net = _small()
    x, y = uf.load_data("digits", split="train")
    adam = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in train(net, Batches(x, y, 64, 0), Madry(uf.Linf(0.03), steps=5), adam, epochs=20, seed=0):
        pass
    return _proven(net.eval(), uf.Linf(0.03), folder, 40, "thorough", "every sample decided")


def purified(folder: Path) -> Path:
    """Audit the demo's standard network behind a semantic purifier."""
    net = uf.load_model(_weights(folder, "standard"))
    x, y = uf.load_data("digits", split="train")
    purify = fit_purifier(net, x, y, seed=0, size=4, atoms=16, smooth=1.0, sparsity=0.1)
    x, y = uf.load_data("digits", n=40)
    about = {"title": "behind a purifier", "data": "digits"}
    uf.audit(guard(net, purify), x, y, uf.Linf(0.1), plan=FEW.plan(uf.Linf(0.1)), out=folder, about=about)
    return render([folder], folder / "report.html")


def study(folder: Path) -> Path:
    """Render the stored record of a study."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STUDY, folder / "summary.json")
    return render_study(folder)


def index(folder: Path) -> Path:
    """Audit both networks of the demo at five radii, and render an index of the ten runs."""
    runs = []
    for name in ("standard", "hardened"):
        for eps in RADII:
            runs.append(folder / f"{name}-{eps}")
            uf.workflows.audit(
                _inputs(folder, name, 20), f"linf:{eps}", options=FEWEST, out=runs[-1], title=f"{name}, {eps}"
            )
    return render(runs, folder / "report.html")


PAGES = {
    "demo": demo,
    "undefended": undefended,
    "not-evaluable": not_evaluable,
    "certified": certified,
    "narrow": narrow,
    "exact": exact,
    "purified": purified,
    "study": study,
    "index": index,
}
"""Name -> function that makes the page in a folder; the demo comes first, since others use its networks."""
ONE_RUN = ("not-evaluable", "certified", "narrow", "exact", "purified")
"""Pages of one run, which is not repeated where it has finished."""


def _weights(folder: Path, name: str) -> Path:
    """Return the file of one of the demo's networks."""
    return folder.parent / "demo" / f"{name}.pt"


def _small() -> nn.Sequential:
    """Return a network of two layers of 20 ReLUs, fresh."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10))


def _proven(net: nn.Module, threat: uf.Linf, folder: Path, n: int, certify: str, title: str) -> Path:
    """Audit a network from both sides, and render its page."""
    plan = AuditOptions(effort="quick", reasons="none", certify=certify).plan(threat)
    uf.audit(net, *uf.load_data("digits", n=n), threat, plan=plan, out=folder, about={"title": title, "data": "digits"})
    return render([folder], folder / "report.html")


def _inputs(folder: Path, name: str, n: int) -> Inputs:
    """Return one of the demo's networks, and n of the digits."""
    return Inputs(_weights(folder, name), n=n)


def small(data: bytes) -> bytes:
    """Return a picture with few colours, as a PNG."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def first_page(pdf: bytes) -> bytes | None:
    """Return the first page of a PDF as a PNG; None without pypdfium2."""
    try:
        import pypdfium2
    except ImportError:
        return None
    buffer = io.BytesIO()
    pypdfium2.PdfDocument(pdf)[0].render(scale=1.1).to_pil().save(buffer, format="PNG")
    return buffer.getvalue()


def shoot(browser: Any, name: str, page: Path) -> dict[str, Any]:
    """Take the pictures of a page, and return the first sentence that it shows."""
    for width, height in WIDTHS.items():
        for theme in ("light", "dark"):
            browser.open(page, width=width, dark=theme == "dark")
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.call("Emulation.setDeviceMetricsOverride", **size)
            browser.call("Emulation.setScrollbarsHidden", hidden=True)
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            taken = browser.call("Page.captureScreenshot", format="png", clip=clip)["data"]
            (OUT / f"{name}-{width}-{theme}.png").write_bytes(small(base64.b64decode(taken)))
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
    printed = first_page(pdf)
    if printed is not None:
        (OUT / f"{name}-print.png").write_bytes(small(printed))
    said = browser.get("document.body.innerText.slice(0, 700)")
    wider = browser.get("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return {"says": said, "too wide by": wider, "bytes of the PDF": len(pdf)}


def main() -> None:
    """Make pages that are missing, and take the pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(PAGES), default=list(PAGES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    from tests.browser.driver import Browser

    OUT.mkdir(parents=True, exist_ok=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)  # pages show the paths that they were given
    for name in options.only:
        page = Path(name) / "report.html"
        finished = name in ONE_RUN and (page.parent / "summary.json").is_file()
        page = (render([page.parent], page) if finished else PAGES[name](page.parent)).resolve()
        with TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
            print(name, json.dumps(shoot(browser, name, page), indent=1), flush=True)


if __name__ == "__main__":
    main()
