"""Plugin of pytest: the fixture `assert_robust`, the marker `robustness`, and the pages of the audits.

It is loaded whenever pytest starts where unfooled is installed, and imports nothing heavy until a test asks for it.

    def test_robust(assert_robust):
        assert_robust(load_my_model(), (x, y), "linf:8/255", at_least=0.4, effort="quick")
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from unfooled.evaluation.audit.records import Summary

MARKER = "robustness"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the pages."""
    group = parser.getgroup("unfooled")
    group.addoption(
        "--robustness-pages", metavar="DIR", default=None,
        help="Folder for the run folders and pages of assert_robust, one for each audit; a temporary one if not given.",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"{MARKER}: audits a model; leave it out with -m 'not {MARKER}'")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the fixture."""
    for item in items:
        if "assert_robust" in getattr(item, "fixturenames", ()):
            item.add_marker(MARKER)


class Assertion:
    """The function that the fixture gives: `unfooled.assert_robust` with a run folder of its own for each call."""

    def __init__(self, folder: Path, record: Any) -> None:
        self.folder, self.record, self.calls = folder, record, 0

    def __call__(
        self,
        model: Any,
        data: Any,
        threat: Any,
        at_least: float = 0.4,
        *,
        n: int | None = 100,
        end: str = "value",
        effort: str = "normal",
        options: Any = None,
        baseline: str | Path | None = None,
        seed: int = 0,
    ) -> Summary:
        """Audit a model, and fail the test where its robust accuracy is too low or cannot be believed.

        Args:
            model: Model, or a source as `load_model` reads it.
            data: Samples and labels, (x, y), or a source as `load_data` reads it.
            threat: Constraint set, or text such as "linf:8/255".
            at_least: Lower bound of robust accuracy, in [0, 1].
            n: Number of samples; None: all.
            end: "value", or "low" for the lower end of the 95 % interval.
            effort: Name of an effort, such as "quick".
            options: Choices of the audit, or a `Plan`; they replace `effort`. None: no attack on explanations.
            baseline: Run folder or file that this run may not be worse than. None: none.
            seed: Random seed.
        """
        from unfooled import assert_robust

        self.calls += 1
        out = self.folder if self.calls == 1 else Path(f"{self.folder}-{self.calls}")
        self.record("robustness_page", str(out / "report.html"))
        return assert_robust(
            model, data, threat, at_least, n=n, end=end, effort=effort, options=options, baseline=baseline, seed=seed,
            out=out,
        )  # fmt: skip


@pytest.fixture
def assert_robust(request: pytest.FixtureRequest, tmp_path: Path, record_property: Any) -> Assertion:
    """Return a function that audits a model and fails the test where it is not robust; see `unfooled.assert_robust`."""
    pages = request.config.getoption("--robustness-pages")
    name = re.sub(r"[^\w.-]+", "-", request.node.nodeid).strip("-.")
    return Assertion(tmp_path / "robustness" if pages is None else Path(pages) / name, record_property)
