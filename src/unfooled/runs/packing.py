"""Safetensors files of streamed samples: written part by part, with the same bytes as the safetensors library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from unfooled.core.samples import blocks, raw

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Type -> its code in the header."""
_ORDER = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
"""Codes from the last to the first in a file."""


def packed(tensors: Mapping[str, Tensor]) -> Iterator[memoryview | bytes]:
    """Yield the parts of a safetensors file of ordinary and streamed tensors."""
    names = sorted(tensors, key=lambda name: (-_ORDER.index(CODES[tensors[name].dtype]), name))
    header, end = {}, 0
    for name in names:
        x = tensors[name]
        start, end = end, end + x.numel() * x.element_size()
        header[name] = {"dtype": CODES[x.dtype], "shape": list(x.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        for part in blocks(tensors[name]):
            yield raw(part)
