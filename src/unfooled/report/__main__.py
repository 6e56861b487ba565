"""Render run folders from the shell: `python -m unfooled.report RUN [RUN ...] --out page.html`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unfooled.core.errors import BadInput
from unfooled.report.page import render


def main(arguments: Sequence[str] | None = None) -> int:
    """Render a page, and print its path; return the exit status, 2 where a run cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m unfooled.report", description="One HTML page from run folders.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder of a finished audit, or its URL")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="page to write (report.html)")
    parser.add_argument("--title", help="heading of the page")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(f"{render(options.runs, options.out, title=options.title)}\n")
    except BadInput as e:
        sys.stderr.write(f"{e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
