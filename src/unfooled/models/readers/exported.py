"""Exported programs (`.pt2` files of `torch.export.save`) as modules for any number of samples.

A program with a dynamic batch size is called directly, within its bounds. A program exported for b samples is called on
groups of b, the last one padded with zeros: ceil(B / b) calls.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.limits import check_zip
from unfooled.core.model.batching import batched
from unfooled.core.model.outputs import logits_of
from unfooled.models.readers.loaded import Loaded
from unfooled.models.readers.vetting import vetted


class Exported(nn.Module):
    """Module of a program, called on groups of a valid size.

    Args:
        program: Module of the program, as `ExportedProgram.module()` returns it.
        least: Fewest samples of one call; smaller groups are padded with zeros.
        most: Most samples of one call. None: any number.
    """

    def __init__(self, program: nn.Module, least: int, most: int | None) -> None:
        super().__init__()
        self.program, self.least, self.most = program, least, most

    def train(self, mode: bool = True) -> Exported:
        """Set only the flag of this module: the mode of the graph was fixed at export."""
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, K)."""
        return batched(self._group, self.most)(x)

    def _group(self, x: Tensor) -> Tensor:
        """Return the logits of at most `most` samples."""
        short = self.least - len(x)
        filled = torch.cat([x, x.new_zeros(short, *x.shape[1:])]) if short > 0 else x
        return logits_of(self.program(filled))[: len(x)]


def from_exported(path: Path, device: torch.device, *, trust_pickle: bool = False) -> Loaded:
    """Load an exported program of one input, (B, *D), and one output, logits.

    Args:
        path: `.pt2` file.
        device: Device to run on; the program is moved before its module is built, since graphs store their device.
        trust_pickle: True: load any file; False: only content that cannot run code, see `vetting`.

    Raises:
        BadInput: The file is damaged, holds content that could run code, takes more than one input, or was exported in
            training mode.
    """
    check_zip(path)
    source: Any = path if trust_pickle else vetted(path)
    try:
        with _quiet():
            program = torch.export.load(source)
            if device.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            module = program.module()
    except Exception as error:  # the loader raises nearly anything
        detail = (str(error).splitlines() or [""])[0][:200]
        raise BadInput(f"{path} cannot be loaded as an exported program: {type(error).__name__}: {detail}") from error
    names = program.graph_signature.user_inputs
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != 1:
        raise BadInput(f"{path} takes {len(inputs)} inputs; a classifier takes one, (B, *D)")
    if active := _training_nodes(program):
        raise BadInput(f"{path} was exported in training mode ({active}); export it after model.eval()")
    sides = tuple(inputs[0].meta["val"].shape)
    least, most = _limits(program, sides[0])
    shape = sides[1:] if all(isinstance(side, int) for side in sides[1:]) else None
    for weight in module.parameters():
        weight.requires_grad_(False)
    return Loaded(Exported(module, least, most), path.stem, input_shape=shape)


def _limits(program: Any, side: Any) -> tuple[int, int | None]:
    """Return the fewest and the most samples that a program takes in one call."""
    if isinstance(side, int):
        return side, side
    span = program.range_constraints.get(side.node.expr)
    if span is None:
        return 1, None
    # Export records a bound of 2 if sizes 0 and 1 were not traced, but does not enforce it.
    return int(span.lower) if span.lower > 2 else 1, int(span.upper) if span.upper.is_Integer else None


def _training_nodes(program: Any) -> str:
    """Return the first operation that was exported in training mode; empty if there is none."""
    place = {"dropout": "train", "batch_norm": "training"}
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "").split(".")[0]
        if node.op == "call_function" and name in place:
            schema = [argument.name for argument in node.target._schema.arguments]
            at = schema.index(place[name])
            if node.args[at] if at < len(node.args) else node.kwargs.get(place[name]):
                return name
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loader, which logs errors that are also raised."""
    logs = [logging.getLogger(name) for name in ("torch.export", "torch._export.serde.serialize")]
    before = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.CRITICAL)
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
