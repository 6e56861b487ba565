"""Texts from files and standard input: one text, or several, one per line or as JSON lines; also compressed (.gz)."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput, missing_file, option
from unfooled.core.limits import RATIO, limits_now, regular

STDIN = "-"
SUFFIXES = (".txt", ".md", ".jsonl", ".csv", ".tsv", ".gz")
FIELD = "text"
"""Field of a JSON line that holds the text."""
PIECE = 1 << 20
"""Bytes that are read at once."""


def read_text(source: str | Path) -> str:
    r"""Read one text.

    Args:
        source: A file, also compressed (.gz), or "-" for standard input.

    Returns:
        The text, which may be empty. Line ends become `\n`.

    Raises:
        BadInput: There is no such file, it cannot be read, is too large, or is no text in UTF-8.
    """
    data, name = _bytes(source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{name} is no text in UTF-8 (byte {error.start}); convert it, such as with iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in text:
        raise BadInput(f"{name} holds zero bytes, so that it is no text; give a plain text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_texts(source: str | Path) -> list[str]:
    """Read several texts: of a `.jsonl` file (or `.jsonl.gz`) the field "text" of each line, else one text per line.

    Args:
        source: A file, or "-" for standard input.

    Returns:
        The texts, without empty lines.

    Raises:
        BadInput: As for `read_text`; a line is no JSON or has no text; there is no text.
    """
    lines = [(k, line) for k, line in enumerate(read_text(source).split("\n"), 1) if line.strip()]
    if not lines:
        raise BadInput(f"there is no text in {_name(source)}; it holds one text per line, or JSON lines")
    as_json = Path(str(source).removesuffix(".gz")).suffix in (".jsonl", ".ndjson")
    return [_field(line, k, source) for k, line in lines] if as_json else [line for _, line in lines]


def _field(line: str, number: int, source: str | Path) -> str:
    """Return the text of a JSON line: a string, or the field `FIELD` of an object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"line {number} of {_name(source)} is no JSON: {error}") from error
    text = value.get(FIELD) if isinstance(value, dict) else value
    if not isinstance(text, str):
        has = f"the fields {', '.join(map(str, list(value)[:8]))}" if isinstance(value, dict) else "no object"
        raise BadInput(f"line {number} of {_name(source)} has {has}; each line is a string, or has the field {FIELD!r}")
    return text


def _name(source: str | Path) -> str:
    """Return the source's name for errors."""
    return "standard input" if str(source) == STDIN else str(source)


def _bytes(source: str | Path) -> tuple[bytes, str]:
    """Return the bytes of a source, unpacked, and its name."""
    name = _name(source)
    if str(source) == STDIN:
        return read_limited(sys.stdin.buffer, name, limits_now().max_bytes), name
    path = regular(Path(source))
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give a file")
    if not path.is_file():
        raise missing_file(path, SUFFIXES)
    return read_unpacked(path), name


def read_unpacked(path: Path) -> bytes:
    """Read a file whole; one that ends in .gz is unpacked.

    Raises:
        BadInput: It cannot be read, is damaged, or has more bytes than is allowed.
    """
    most = max(limits_now().max_bytes, RATIO * path.stat().st_size)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return read_limited(file, str(path), most)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_limited(file: Any, name: str, most: int) -> bytes:
    """Read a stream to its end; refuse it once it has more than `most` bytes."""
    into = io.BytesIO()
    try:
        while part := file.read(PIECE):
            if into.tell() + len(part) > most:
                raise BadInput(f"{name} has more than {most:,} bytes; if you trust it, raise {option('max_bytes')}")
            into.write(part)
        return into.getvalue()
    except MemoryError:
        raise BadInput(f"{name} does not fit into memory; give a part of it") from None
