"""Run folders that were changed: what was changed is found, named and computed again, and nothing else is.

    python benchmarks/reliability/tamper.py --out benchmarks/results/reliability_tamper.json

Each case copies the folder of a finished audit, changes it, and starts the audit again. Its figures must be those of
a folder that nobody touched (a wrong verdict otherwise), it must end without a traceback, and chunks that were not
changed must not be computed again (they are lost otherwise).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unfooled import Linf, Plan, audit, workflows
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents, Searches
from unfooled.core.errors import BadInput
from unfooled.models import SmallCnn
from unfooled.runs.folder import Folder
from unfooled.runs.records import Environment

N, CHUNK, EPS, OTHER = 24, 8, 0.05, 0.1
PLAN = Plan(
    effort=Effort("short", (Ascents(10), Searches(10, 0.5))), nearest_budget=100, nearest_n=12, explain_n=8, gallery=4,
    floor=8000, reasons_n=4, reasons_steps=3,
)  # fmt: skip
VOLATILE = ("seconds", "created", "efficiency", "warnings")


@dataclass(frozen=True)
class Case:
    """One way of changing a folder.

    Attributes:
        name: Description.
        change: Function that changes a folder, and returns the names of the files that must be computed again.
        eps: Radius of the second start.
        refused: True if a refusal in one sentence is right.
        named: True if the changed files must be named.
    """

    name: str
    change: Callable[[Path], set[str]]
    eps: float = EPS
    refused: bool = False
    named: bool = True


def problem() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network, samples, and labels that it mostly gets right."""
    torch.manual_seed(0)
    net, x = SmallCnn((1, 8, 8), 4, width=4).eval(), torch.rand(N, 1, 8, 8)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4
    return net, x, y


def run(folder: Path, eps: float = EPS, seed: int = 0) -> Any:
    """Audit in a folder."""
    net, x, y = problem()
    return audit(net, x, y, Linf(eps), plan=PLAN, out=folder, chunk=CHUNK, batch=64, seed=seed)


def figures(folder: Path) -> dict[str, Any]:
    """Return everything that an audit leaves, but for times and warnings."""
    summary = json.loads((folder / "summary.json").read_text())
    kept = {name: value for name, value in summary.items() if name not in VOLATILE}
    return kept | {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}


def flipped(name: str, share: float) -> Callable[[Path], set[str]]:
    """Flip a bit of a file at a share of its length."""

    def change(folder: Path) -> set[str]:
        file = folder / name
        data = bytearray(file.read_bytes())
        data[int(share * (len(data) - 1))] ^= 4
        file.write_bytes(bytes(data))
        return {name}

    return change


def content(name: str, make: Callable[[bytes], bytes]) -> Callable[[Path], set[str]]:
    """Replace the content of a file."""

    def change(folder: Path) -> set[str]:
        (folder / name).write_bytes(make((folder / name).read_bytes()))
        return {name}

    return change


def tensors(name: str, make: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], set[str]]:
    """Change the tensors of a chunk, and leave its seal as it is."""

    def change(folder: Path) -> set[str]:
        with safe_open(str(folder / name), framework="pt") as file:
            about = file.metadata()
        rows = {key: value.clone() for key, value in load_file(str(folder / name)).items()}
        made = make(rows)
        save_file({key: value.contiguous() for key, value in (made or rows).items()}, str(folder / name), about)
        return {name}

    return change


def swapped(a: str, b: str) -> Callable[[Path], set[str]]:
    """Swap two files."""

    def change(folder: Path) -> set[str]:
        first, second = (folder / a).read_bytes(), (folder / b).read_bytes()
        (folder / a).write_bytes(second)
        (folder / b).write_bytes(first)
        return {a, b}

    return change


def renamed(a: str, b: str) -> Callable[[Path], set[str]]:
    """Rename a chunk."""

    def change(folder: Path) -> set[str]:
        (folder / a).rename(folder / b)
        return {a, b}

    return change


def from_other(name: str, other: Path) -> Callable[[Path], set[str]]:
    """Put a chunk of another run in place."""

    def change(folder: Path) -> set[str]:
        shutil.copy(other / name, folder / name)
        return {name}

    return change


def forgotten(*names: str) -> Callable[[Path], set[str]]:
    """Remove files."""

    def change(folder: Path) -> set[str]:
        for name in names:
            (folder / name).unlink()
        return set(names)

    return change


def claimed(folder: Path) -> set[str]:
    """Leave the claim of a process that is gone."""
    (folder / "chunks/clean/0-8.safetensors").unlink()
    place = folder / ".claims"
    place.mkdir()
    import hashlib

    name = "chunks/clean/0-8.safetensors"
    key = hashlib.sha256(name.encode()).hexdigest()[:20]
    holder = {"name": name, "token": "x", "host": "elsewhere", "pid": 1, "started": "1", "beat": 0.0}
    (place / f"{key}.0").write_text(json.dumps(holder))
    return {name}


def cases(seeded: Path, wider: Path) -> Iterator[Case]:
    """Yield all cases.

    Args:
        seeded: Folder of a run with another seed.
        wider: Folder of a run with another radius.
    """
    clean, first, judge = (
        "chunks/clean/0-8.safetensors",
        "chunks/cascade-0-apgd/0-8.safetensors",
        "chunks/judge/8-16.safetensors",
    )
    probes, last, twin = (
        "chunks/diagnostics-probes.json",
        "chunks/diagnostics-last.json",
        "chunks/twin-trial-learned.safetensors",
    )
    for name in (clean, first, judge, twin, probes):
        for share in (0.05, 0.5, 0.97):
            yield Case(f"a bit of {name} at {share:.0%}", flipped(name, share))
    for name in (clean, twin, last):
        yield Case(f"{name} cut in half", content(name, lambda data: data[: len(data) // 2]))
        yield Case(f"{name} empty", content(name, lambda _: b""))
    yield Case("findings are {}", content(probes, lambda _: b"{}"))
    yield Case("findings are null", content(probes, lambda _: b"null"))
    yield Case("a chunk of zeros", content(first, lambda data: bytes(len(data))))
    yield Case("too few rows", tensors(judge, lambda rows: {key: value[:-1] for key, value in rows.items()}))
    yield Case("a tensor is missing", tensors(judge, lambda rows: rows.pop("success") is None or rows))
    yield Case("all were fooled", tensors(judge, lambda rows: rows["success"].fill_(True) is None or rows))
    yield Case("another type", tensors(judge, lambda rows: {k: v.double() for k, v in rows.items()}))
    yield Case("two chunks swapped", swapped(judge, "chunks/judge/0-8.safetensors"))
    yield Case("a chunk under other rows", renamed(first, "chunks/cascade-0-apgd/0-9.safetensors"))
    yield Case("a chunk beyond all rows", renamed(judge, "chunks/judge/800-808.safetensors"))
    yield Case("a chunk under no name of ours", renamed(judge, "chunks/judge/copy.safetensors"))
    yield Case("a chunk of another seed", from_other(first, seeded))
    yield Case("a chunk of another radius", from_other(judge, wider))
    yield Case("the twin of another radius", from_other(twin, wider))
    yield Case("chunks removed", forgotten(clean, probes, twin), named=False)
    yield Case("config.json cut in half", content("config.json", lambda data: data[: len(data) // 2]))
    yield Case("config.json empty", content("config.json", lambda _: b""))
    yield Case("config.json edited", content("config.json", lambda data: data.replace(b"linf:0.05", b"linf:0.1")))
    yield Case("config.json of another radius", from_other("config.json", wider), refused=True)
    yield Case("config.json removed", forgotten("config.json"), named=False)
    yield Case("config.json removed, another radius", forgotten("config.json"), eps=OTHER, named=False)
    yield Case(
        "summary.json edited",
        content("summary.json", lambda data: data.replace(b'"SOUND"', b'"EXTENDED"')),
        named=False,
    )
    yield Case("samples cut off", content("samples.safetensors", lambda data: data[:100]), named=False)
    yield Case("a claim of a process that is gone", claimed, named=False)


def verdict(case: Case, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Start again in a changed folder, and say what went wrong."""
    changed = case.change(folder)
    gone = {name for name in changed if not (folder / name).exists()}  # these are missing, not damaged
    stored: set[str] = set()
    real_rows, real_json = Folder.store_rows, Folder.store_json

    def rows(self: Folder, name: str, *rest: Any) -> None:
        stored.add(name)
        real_rows(self, name, *rest)

    def records(self: Folder, name: str, *rest: Any) -> None:
        stored.add(name)
        real_json(self, name, *rest)

    row: dict[str, Any] = {"case": case.name, "wrong": False, "traceback": False, "lost": 0, "named": None}
    Folder.store_rows, Folder.store_json = rows, records  # type: ignore[method-assign, assignment]
    try:
        summary = run(folder, case.eps)
    except BadInput as error:
        return row | {"wrong": not case.refused, "refused": str(error).replace(str(folder), "RUN")}
    except Exception:
        return row | {"traceback": True, "error": traceback.format_exc()[-500:]}
    finally:
        Folder.store_rows, Folder.store_json = real_rows, real_json  # type: ignore[method-assign]
    said = " ".join(summary.warnings)
    missed = [name for name in changed - gone if name not in said]
    lost = stored - changed if case.eps == EPS else set()
    return row | {
        "wrong": case.refused or figures(folder) != expected,
        "lost": len(lost),
        "named": not missed if case.named else None,
    }


def together(place: Path) -> dict[str, Any]:
    """Start two audits with different settings at once."""
    found: list[str] = []

    def begin(eps: float) -> None:
        try:
            run(place, eps)
            found.append("done")
        except BadInput:
            found.append("refused")

    both = [threading.Thread(target=begin, args=(eps,)) for eps in (EPS, OTHER)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    return {
        "case": "two starts with other settings at once", "wrong": sorted(found) != ["done", "refused"],
        "traceback": len(found) != 2, "lost": 0, "named": None,
    }  # fmt: skip


def spellings(place: Path) -> Iterator[dict[str, Any]]:
    """Continue an audit of the same weights under other spellings of their path."""
    from unfooled.models import SmallCnn

    place.mkdir()
    net = SmallCnn((1, 8, 8), 10, width=4).eval()
    torch.save(
        {"arch": "small-cnn", "input_shape": [1, 8, 8], "num_classes": 10, "width": 4, "model": net.state_dict()},
        place / "a.pt",
    )
    (place / "b.pt").symlink_to(place / "a.pt")
    before = Path.cwd()
    os.chdir(place)
    try:
        for name in ("a.pt", "./a.pt", str(place / "a.pt"), "b.pt"):
            try:
                workflows.audit(
                    workflows.Inputs(name, "digits", n=8), "linf:0.05", options=PLAN, out=place / "run",
                    machine=workflows.Machine("cpu", batch=64),
                )  # fmt: skip
                wrong = ""
            except BadInput as error:
                wrong = str(error).replace(str(place), "RUN")
            if name != "a.pt":
                shown = "an absolute path" if Path(name).is_absolute() else name
                yield {
                    "case": f"the same weights as {shown}", "wrong": bool(wrong), "traceback": False, "lost": 0,
                    "named": None,
                }  # fmt: skip
    finally:
        os.chdir(before)


def main() -> None:
    """Run all cases, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="unfooled-bench-") as top:
        place = Path(top)
        run(place / "whole")
        run(place / "wider", OTHER)
        run(place / "seeded", seed=1)
        expected = {EPS: figures(place / "whole"), OTHER: figures(place / "wider")}
        for number, case in enumerate(cases(place / "seeded", place / "wider")):
            shutil.copytree(place / "whole", place / str(number))
            rows.append(verdict(case, place / str(number), expected[case.eps]))
            print(json.dumps(rows[-1]), flush=True)
        rows += [together(place / "both"), *spellings(place / "spelled")]
    counts = {
        "cases": len(rows),
        "wrong_verdicts": sum(row["wrong"] for row in rows),
        "tracebacks": sum(row["traceback"] for row in rows),
        "chunks_lost": sum(row["lost"] for row in rows),
        "not_named": sum(row["named"] is False for row in rows),
    }
    record = {
        "command": "python benchmarks/reliability/tamper.py",
        "environment": Environment.here("cpu").model_dump(),
        "n": N,
        **counts,
        "passed": len(rows) >= 40 and not any(list(counts.values())[1:]),
        "rows": rows,
    }
    print(json.dumps(counts))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
