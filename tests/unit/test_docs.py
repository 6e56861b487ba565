"""The documentation is true: snippets run, commands parse, names exist, references agree."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import unfooled
from unfooled.evaluation.audit.records import Summary

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language, without those that are a file of the package (`# src/...`)."""
    found = [block[2] for block in BLOCK.findall(path.read_text(encoding="utf-8")) if block[1] == language]
    return [text for text in found if not text.lstrip().startswith("# src/")]


WITH_PYTHON = [path for path in PAGES if blocks(path, "python")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the snippets load: the demo's two checkpoints, barely trained."""
    from unfooled.core.threats import Linf
    from unfooled.data import load_data
    from unfooled.models import SmallCnn
    from unfooled.training import Batches, Madry, Standard, train
    from unfooled.training.checkpoint import Checkpoint

    folder = tmp_path_factory.mktemp("docs")
    x, y = load_data("digits", "train", n=600)
    about = {"arch": "small-cnn", "input_shape": [1, 8, 8], "num_classes": 10}
    for name, loss in (("standard", Standard()), ("hardened", Madry(Linf(0.15), steps=2))):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = SmallCnn(width=16)
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
        keep = Checkpoint(folder / "runs" / "demo" / f"{name}.pt", about)
        for _ in train(net, Batches(x, y, 64), loss, optimizer, epochs=3, checkpoint=keep):
            pass
    return folder


@pytest.mark.usefixtures("small_audits")
@pytest.mark.parametrize("path", WITH_PYTHON, ids=name_of)
def test_python_snippets_run(path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))  # as in a session that was started there
    state = torch.get_rng_state()
    names: dict[str, Any] = {}
    for block in blocks(path, "python"):
        exec(compile(block, name_of(path), "exec"), names)
    torch.set_rng_state(state)


def test_the_pages_that_promise_python_have_it() -> None:
    wanted = {"README.md", "docs/getting-started.md", "docs/how-to/python.md", "docs/how-to/normalisation.md"}
    assert wanted <= {name_of(path) for path in WITH_PYTHON}


def commands() -> list[tuple[str, list[str]]]:
    """Every `unfooled ...` in a shell block or in a line of code, with the page it stands on."""
    found = []
    for path in PAGES:
        text = "\n".join(blocks(path, "sh") + blocks(path, "yaml")).replace("\\\n", " ")
        lines = [line.strip() for line in text.splitlines()]
        prose = BLOCK.sub("", path.read_text(encoding="utf-8"))
        lines += re.findall(r"`(unfooled [a-z]+ --[^`]+|unfooled report [^`]+)`", prose)
        found += [(name_of(path), shlex.split(line)) for line in lines if line.startswith("unfooled ")]
    return found


def test_commands_parse_and_their_names_exist() -> None:
    import typer

    from unfooled.cli.app import app
    from unfooled.workflows import catalog
    from unfooled.workflows.bounds import read_bound
    from unfooled.workflows.words import numbers, threat_of

    group: Any = typer.main.get_command(app)
    seen = commands()
    assert len(seen) > 15
    tables: dict[str, Any] = {
        "reasons": catalog.REASONS,
        "explain": catalog.EXPLANATIONS,
        "method": catalog.EXPLANATIONS,
    }
    for page, words in seen:
        if words[-1] == "--help":
            continue
        command, *rest = words[1:]
        found = group.commands[command]
        if hasattr(found, "commands"):
            command, *rest = rest
            found = found.commands[command]
        context = found.make_context(command, rest)
        given = context.params
        if given.get("threat"):
            threat_of(given["threat"])
        kinds = catalog.OBJECTIVES if words[1] == "explain" else catalog.ATTACKS
        for option, table in {**tables, "attack": kinds}.items():
            assert given.get(option) is None or given[option] in table, (page, words)
        assert given.get("loss") is None or given["loss"] in catalog.LOSSES
        for text in given.get("fail_under") or []:
            read_bound(text)
        for option in ("mean", "std"):
            numbers(given.get(option), option)


PACKAGE = Path(unfooled.__file__).parent
FAMILIES = sorted(
    ".".join(folder.relative_to(PACKAGE).parts)
    for folder in (file.parent for file in PACKAGE.glob("*/**/__init__.py"))
    if folder.name != "cli"
)
"""Every package but the command line, whose door loads nothing."""


def test_families_are_packages() -> None:
    assert {"attacks.ensembles", "distances.maps", "drawing", "report.sections", "studies.common"} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_list_their_names(family: str) -> None:
    package = importlib.import_module(f"unfooled.{family}")
    names = package.__all__
    assert len(names) == len(set(names))
    assert len(names) > 0
    for name in names:
        assert getattr(package, name) is not None
        assert not name.startswith("_")
    assert set(names) <= set(dir(package))


def test_help_is_a_page() -> None:
    """pydoc prints every class and function of `__all__` in full, lazy or not; without one, what the module defines."""
    import pydoc

    lines = pydoc.render_doc(unfooled, renderer=pydoc.plaintext).splitlines()  # type: ignore[attr-defined]
    assert 40 <= len(lines) <= 65
    text = "\n".join(lines)
    assert "CLASSES" not in text
    assert "FUNCTIONS" not in text
    assert not hasattr(unfooled, "__all__")


def test_the_overview_names_everything() -> None:
    overview = unfooled.__doc__ or ""
    assert [name for name in dir(unfooled) if name != "__version__" and not re.search(rf"\b{name}\b", overview)] == []
    listed = overview.partition("Load ")[2].partition("Families are")[0]
    said = set(re.findall(r"\b([a-z]+_[a-z_]+|[A-Z]\w*\d?)\b", listed)) - {
        "Threats", "Audit", "Attack", "Judge", "Train"
    }  # fmt: skip
    assert said <= set(dir(unfooled))


def test_a_wrong_command_would_be_found() -> None:
    import typer

    from unfooled.cli.app import app

    group: Any = typer.main.get_command(app)
    with pytest.raises(Exception, match="No such option: --treat"):
        group.commands["audit"].make_context("audit", ["--model", "a.pt", "--treat", "linf:0.1"])


def test_the_command_line_page_lists_every_name() -> None:
    from unfooled.cli.app import app
    from unfooled.workflows import catalog
    from unfooled.workflows.words import THREATS

    page = complete("reference/command-line.md")
    for table in (catalog.ATTACKS, catalog.EXPLANATIONS, catalog.OBJECTIVES, catalog.LOSSES, catalog.FEATURES):
        assert [name for name in table if f"`{name}`" not in page] == []
    inside = [f"{g.name} {c.name}" for g in app.registered_groups for c in g.typer_instance.registered_commands]  # type: ignore[union-attr]
    names = [*(c.name for c in app.registered_commands), *inside]
    assert [name for name in names if f"`unfooled {name}`" not in page] == []
    assert [name for name in THREATS if f"`{name}:" not in page] == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "#", "docs/assets/")):
            continue
        file = (path.parent / target.partition("#")[0]).resolve()
        assert file.is_file(), target


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"(\S+\.md)$", nav, re.MULTILINE)
    there = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)


def test_references_agree() -> None:
    bib = (ROOT / "docs/bibliography.bib").read_text(encoding="utf-8")
    page = (ROOT / "docs/bibliography.md").read_text(encoding="utf-8")
    entries = set(re.findall(r"eprint = \{([\d.]+)\}", bib))
    assert set(re.findall(r"arXiv:(\d{4}\.\d{4,5})\]\(https://arxiv\.org/abs/\1\)", page)) == entries
    assert len(re.findall(r"^@", bib, re.MULTILINE)) == len(re.findall(r"^- ", page, re.MULTILINE))
    for place in [*PAGES, *(ROOT / "src").rglob("*.py")]:
        text = place.read_text(encoding="utf-8")
        cited = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", text)) | set(re.findall(r"arxiv\.org/abs/([\d.]+)\b", text))
        assert cited <= entries, f"{name_of(place)} cites what the bibliography lacks"


def complete(page: str) -> str:
    """A page of docs/ as the site shows it."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text: str = hooks.complete(page, (ROOT / "docs" / page).read_text(encoding="utf-8"))
    return text


def test_pages_are_completed() -> None:
    assert "\n::: unfooled.core.shapes\n" in complete("reference/distances.md")
    attacks = complete("reference/attacks.md")
    assert attacks.count("::: unfooled.attacks.pgd\n") == 1
    assert complete("reference/command-line.md").startswith("# Command line")
    assert complete("methods/attacks.md") == (ROOT / "docs/methods/attacks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "family",
    [
        "attacks",
        "explanations",
        "distances",
        "training",
        "features",
        "counterfactuals",
        "purification",
        "certification",
    ],
)
def test_every_public_name_has_its_pages(family: str) -> None:
    package = importlib.import_module(f"unfooled.{family}")
    reference = complete(f"reference/{family}.md")
    page = {"features": "robust-features", "counterfactuals": "semantic-counterfactuals"}.get(family, family)
    methods = (ROOT / f"docs/methods/{page}.md").read_text(encoding="utf-8")
    for name in package.__all__:
        value = getattr(package, name)
        if isinstance(value, tuple):  # a constant of the family, whose members have their own entries
            continue
        assert re.search(rf"^::: {re.escape(value.__module__)}$", reference, re.MULTILINE), name
        assert not inspect.isfunction(value) or re.search(rf"\b{name}\b", methods), f"{name} is not on the methods page"


def test_reference_pages_name_modules_that_exist() -> None:
    for path in (ROOT / "docs/reference").glob("*.md"):
        for module in re.findall(r"^::: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(module)


def test_decisions_are_numbered_and_listed() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "index.md").read_text(encoding="utf-8")
    records = sorted(path for path in folder.glob("*.md") if path.name != "index.md")
    assert [path.name[:4] for path in records] == [f"{k:04}" for k in range(1, len(records) + 1)]
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]} ")
        assert f"]({path.name})" in index
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Context",
            "## Decision",
            "## Consequences",
        ]


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]  # read from `_version.py`
    assert f"\nversion: {unfooled.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{unfooled.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["license"].replace("-", " ") == "Apache 2.0"
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    pinned_oracle = "lime==0.2.0.1"  # the release whose numbers and signatures `compat.lime` has
    assert [r for r in requirements if re.search(r"[<~]|==", r)] == [pinned_oracle], "upper bounds"
    (low,) = re.findall(r"torch>=([\d.]+)", " ".join(project["dependencies"]))
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (least, high) = re.findall(r"^torch>=([\d.]+),<([\d.]+)$", constraints, re.MULTILINE)[0]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert least == low
    assert f"`torch>={low}`" in readme
    assert f"torch below {high}" in readme
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in constraints.splitlines() if "==" in line}
    names = {re.split(r"[>=\[]", r)[0].lower().replace("_", "-") for r in project["dependencies"]}
    assert names - pinned == {"torch"}


def test_files_and_names_in_contributing_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = {p for p in re.findall(r"`([\w./-]+\.(?:py|md|bib))`", text) if "NAME" not in p and p != "utils.py"}
    assert len(paths) > 8
    missing = [p for p in paths if not (ROOT / p).is_file() and not (ROOT / "src/unfooled" / p).is_file()]
    assert missing == []
    for module, name in re.findall(r"`(?:unfooled\.)?(core\.\w+)\.(\w+)", text):
        assert hasattr(importlib.import_module(f"unfooled.{module}"), name), name
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for page in PAGES:
        used = re.findall(r"(?:^|`)make ([a-z][a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(used) <= set(targets)


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_demo_s_figures_are_those_of_its_records(page: str) -> None:
    """Every cell of the table stands in the record of a run, kept in benchmarks/results."""
    runs = [
        Summary.model_validate_json((ROOT / f"benchmarks/results/demo-{name}.json").read_text(encoding="utf-8"))
        for name in ("standard", "hardened")
    ]
    table = {}
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and " %" in cells[1]:
            table[cells[0]] = cells[1:]
    names = {
        "clean accuracy": "clean_accuracy",
        "robust accuracy, at most": "robust_accuracy",
        "attack success rate": "attack_success_rate",
    }
    assert {"clean accuracy", "robust accuracy, at most"} <= set(table) <= set(names)
    for label, cells in table.items():
        for cell, run in zip(cells, runs, strict=True):
            e = getattr(run, names[label])
            assert cell == f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}]"
