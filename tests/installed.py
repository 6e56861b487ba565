"""Try an installed wheel: no source tree beside it, only what the archive brought.

Run by `make dist` with `python -I` in a folder without sources. Prints what it tried; leaves with an error otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path


def main() -> None:
    """Import, look for the packaged files, run the commands that a new user runs first."""
    import unfooled

    where = Path(unfooled.__file__).resolve().parent
    assert "site-packages" in where.parts, f"{where} is a source tree; the wheel was not tried"
    assert metadata.version("unfooled") == unfooled.__version__
    requires = [r for r in metadata.requires("unfooled") or [] if "extra ==" not in r]
    assert not any("<" in r or "==" in r for r in requires), f"upper bounds in the metadata: {requires}"
    for file in ("py.typed", "report/templates"):
        assert (where / file).exists(), f"the wheel lacks {file}"
    command = Path(sys.executable).with_name("unfooled")
    with tempfile.TemporaryDirectory() as folder:
        for arguments in (
            ("--version",),
            ("--help",),
            ("doctor",),
            ("train", "--data", "digits", "--epochs", "1", "--out", "net.pt", "--quiet"),
            ("audit", "--model", "net.pt", "--threat", "linf:0.1", "--n", "20", "--effort", "quick", "--out", "run"),
        ):
            print("unfooled", *arguments, flush=True)
            subprocess.run([command, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        assert (Path(folder) / "run" / "report.html").stat().st_size > 10_000
    print(f"the wheel of unfooled {unfooled.__version__} works")


if __name__ == "__main__":
    main()
