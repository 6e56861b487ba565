"""Run every script in examples/ and store what it prints, for the gallery of the site.

python docs/gallery.py            # those that changed since
python docs/gallery.py harden     # these

Each file of docs/gallery begins with the SHA-256 of its script; a script that has changed since is run again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def content(path: Path) -> str:
    """Return the SHA-256 of a script."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored(path: Path) -> str:
    """Return the SHA-256 of the script whose output is stored; empty where there is none."""
    file = ROOT / "docs" / "gallery" / f"{path.stem}.txt"
    return file.read_text(encoding="utf-8").partition("\n")[0] if file.is_file() else ""


def main() -> None:
    """Run the scripts, in a folder of their own."""
    names = sys.argv[1:]
    for path in sorted((ROOT / "examples").glob("*.py")):
        if path.stem not in names and (names or stored(path) == content(path)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, str(path)], cwd=folder, capture_output=True, text=True, env=os.environ, check=False
            )
        if done.returncode:
            sys.exit(f"{path.name} failed:\n{done.stderr}")
        out = ROOT / "docs" / "gallery" / f"{path.stem}.txt"
        out.write_text(f"{content(path)}\n{done.stdout}", encoding="utf-8")
        print(f"{path.stem}: {len(done.stdout.splitlines())} lines", flush=True)


if __name__ == "__main__":
    main()
