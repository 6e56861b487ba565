"""What is written to a run folder, as pydantic records: read back strictly, written whole."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unfooled.core.errors import BadInput
from unfooled.runs.files import write_whole

R = TypeVar("R", bound=BaseModel)


class Record(BaseModel):
    """Immutable, and strict about unknown fields, so that a typo in a file is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Passes(Record):
    """Model passes per sample."""

    forward: float
    backward: float


class Environment(Record):
    """Where the run was made."""

    unfooled: str
    python: str
    torch: str
    numpy: str
    platform: str
    device: str
    threads: int

    @classmethod
    def here(cls, device: str) -> Environment:
        """Describe this process."""
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
    """What was asked. Two runs with equal configurations have the same verdicts; speed settings do not belong here.

    Attributes:
        model, data: the sources, as given; `fingerprint` tells their content.
        options: all else that changes a verdict, by name.
        fingerprint: hashes of the model's logits and of the data.
    """

    model: str
    data: str
    n: int
    threat: str
    seed: int
    options: dict[str, Any] = Field(default_factory=dict)
    fingerprint: dict[str, str] = Field(default_factory=dict)


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as indented JSON, whole."""
    write_whole(path, (record.model_dump_json(indent=2) + "\n").encode())


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record.

    Raises:
        BadInput: the file is missing, is not JSON or holds something else.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as e:
        raise BadInput(f"cannot read {path}: {e.strerror or e}") from e
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path} is not a {kind.__name__.lower()}: {where}: {first['msg']}") from e
