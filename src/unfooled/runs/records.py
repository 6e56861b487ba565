"""Records of a run folder: pydantic models, validated strictly when read, written atomically."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unfooled.core.errors import BadInput
from unfooled.core.limits import read_regular
from unfooled.runs.files import write_whole

R = TypeVar("R", bound=BaseModel)

Count = Annotated[int, Field(ge=0)]
"""A number of samples, points or passes."""
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A radius, a distance or a time."""
Part = Annotated[float, Field(ge=-1e-6, le=1 + 1e-6, allow_inf_nan=False)]
"""A share or a probability, with the round-off of a mean."""

MAX_BYTES = 1 << 26  # largest size of a record in bytes


class Record(BaseModel):
    """A record: immutable, and strict about unknown fields, so that a misspelt field raises an error.

    A field that is stored under another name has it as its serialisation alias, and is read under both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Passes(Record):
    """Forward and backward passes of the model per sample."""

    forward: float = Field(ge=0)
    backward: float = Field(ge=0)


class Environment(Record):
    """Environment of a run: versions, system, device."""

    unfooled: str
    python: str
    torch: str
    numpy: str
    platform: str
    device: str
    threads: int

    @classmethod
    def here(cls, device: str) -> Environment:
        """Return the environment of this process."""
        import numpy
        import torch

        from unfooled._version import __version__

        return cls(
            unfooled=__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=numpy.__version__,
            platform=f"{platform.system()} {platform.machine()}",
            device=device,
            threads=torch.get_num_threads(),
        )


class Config(Record):
    """Configuration of a run. Equal configurations give equal verdicts; speed settings are not part of it.

    Attributes:
        model: Source of the model, as given; `fingerprint` identifies its content.
        data: Source of the data, likewise.
        n: Number of samples.
        threat: Threat, as text.
        seed: Random seed.
        options: All other settings that affect a verdict, by name.
        fingerprint: Hashes of the model and of the data.
    """

    model: str
    data: str
    n: int
    threat: str
    seed: int
    options: dict[str, Any] = Field(default_factory=dict)
    fingerprint: dict[str, str] = Field(default_factory=dict)


def read_json(path: Path) -> Any:
    """Read a JSON file that others may have written.

    Raises:
        BadInput: The file is not a regular file, is not JSON, is nested too deep, or holds NaN or infinite numbers.
    """
    try:
        return parse_json(read_regular(path, most=MAX_BYTES), path)
    except OSError as e:
        raise BadInput(f"cannot read {path}: {e.strerror or e}") from e


def parse_json(data: bytes, path: Path | str) -> Any:
    """Parse JSON that others may have written.

    Args:
        data: The bytes.
        path: Place that they were read from, for messages.

    Raises:
        BadInput: They are not JSON, are nested too deep, or hold NaN or infinite numbers.
    """

    def refuse(word: str) -> float:
        raise BadInput(f"{path} holds the number {word}; the figures of a record are finite")

    try:
        return json.loads(data, parse_constant=refuse)
    except BadInput:
        raise
    except RecursionError:
        raise BadInput(f"{path} is nested too deep to be read") from None
    except ValueError as e:
        raise BadInput(f"{path} is no JSON: {e}") from e


def record_bytes(record: BaseModel) -> bytes:
    """Return the stored form of a record, indented JSON."""
    return (record.model_dump_json(indent=2) + "\n").encode()


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record atomically, as indented JSON."""
    write_whole(path, record_bytes(record))


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record.

    Raises:
        BadInput: The file is missing, is not JSON or holds something else.
    """
    try:
        return parse_record(read_regular(path, most=MAX_BYTES), kind, path)
    except OSError as e:
        raise BadInput(f"cannot read {path}: {e.strerror or e}") from e


def parse_record(data: bytes, kind: type[R], path: Path | str) -> R:
    """Parse the output of `record_bytes`.

    Args:
        data: The bytes.
        kind: Type of the record.
        path: Place that they were read from, for messages.

    Raises:
        BadInput: They are not JSON or hold something else.
    """
    try:
        if b"NaN" in data or b"Infinity" in data:  # usually inside a text; pydantic would accept them as numbers
            parse_json(data, path)
        return kind.model_validate_json(data)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path} is not a {kind.__name__.lower()}: {where}: {first['msg']}") from e
