"""Vetting of untrusted exported programs: tensors and graphs of ATen operations are allowed, code is refused.

`torch.export.load` can run code from a file in several ways: pickled tensors and sample inputs, compiled
libraries, guards (Python source), shape expressions (evaluated by SymPy), names (pasted into generated source), and
calls of any function under `torch`. A program that `torch.export.save` wrote from a usual model needs none of them.

So the archive is read here, each of those places is checked or emptied, and a new archive is written from the checked
content. Only this new archive is loaded.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from unfooled.core.errors import BadInput, option
from unfooled.core.limits import check_zip

ENTRIES = re.compile(
    r"(data/(weights|constants)/(weight_\d+|tensor_\d+|\w+_config\.json)|models/model\.json"
    r"|data/(weights|constants|sample_inputs)/model\.pt|archive_format|archive_version|byteorder|\.data/\w+|version)"
)
PLAIN_TEXT = re.compile(r"[\w.,> /:-]*")  # no quote, bracket, operator or line break: nothing that could be run
CALLS = frozenset(
    """
    Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs floor ceiling Eq Ne Lt Le Gt Ge And Or Not true false
    Equality Unequality LessThan StrictLessThan GreaterThan StrictGreaterThan FloorDiv ModularIndexing Where PythonMod
    CleanDiv CeilDiv CeilToInt FloorToInt TruncToInt RoundToInt IntTrueDiv FloatTrueDiv ToFloat PowByNatural FloatPow
    """.split()  # noqa: SIM905
)
ARITHMETIC = frozenset(
    "add sub mul floordiv truediv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_ getitem".split()  # noqa: SIM905
)
SYMBOLIC = frozenset({"sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite", "sym_sqrt", "sym_sum"})
PYTREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
REPLACED_ENTRIES: dict[str, Any] = {
    "metadata": {},
    "guards_code": [],
    "torch_version": "",
}  # notes, and the guards' source


def vetted(path: Path) -> io.BytesIO:
    """Return the archive at `path`, checked and rewritten.

    Raises:
        BadInput: It is no such archive, or holds something that could run code; the message names it.
    """
    check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [(item.filename, archive.read(item)) for item in archive.infolist() if not item.is_dir()]
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise BadInput(f"{path} is cut off, damaged or no exported program: {error}") from error
    if not any(name.endswith("/models/model.json") for name, _ in entries):
        raise BadInput(f"{path} is cut off, damaged or no exported program: it holds no models/model.json")
    if len({name for name, _ in entries}) < len(entries):
        raise BadInput(f"{path} was refused: it holds entries of the same name")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries:
            try:
                archive.writestr(name, _checked(name.partition("/")[2], content))
            except _RefusedError as refusal:
                raise BadInput(
                    f"{path} was refused: it holds {refusal}, which could run code; export the model again with this "
                    f"PyTorch and torch.export.save, or give {option('trust_pickle', True)} if you trust its author"
                ) from None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise BadInput(f"{path} is damaged or no exported program: {name}: {error}") from error
    out.seek(0)
    return out


class _RefusedError(Exception):
    """An entry that could run code; the message names it in a phrase."""


def _checked(name: str, content: bytes) -> bytes:
    """Return an entry's content, with the keys of `REPLACED_ENTRIES` cleared."""
    if not ENTRIES.fullmatch(name):
        raise _RefusedError(f"an entry {name!r}")
    if name.endswith(".pt"):
        try:
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:  # as the loader would go on to unpickle it without that protection
            raise _RefusedError(f"a pickle, {name}") from None
    elif name.endswith("_config.json"):
        for weight, entry in json.loads(content)["config"].items():
            if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                raise _RefusedError(f"the pickled weight {weight}")
    elif name == "models/model.json":
        return json.dumps(_graph(json.loads(content))).encode()
    return content


def _graph(item: Any, key: str = "") -> Any:
    """Return a copy of the graph's JSON, in which each string was checked for its use."""
    if key in REPLACED_ENTRIES:
        return REPLACED_ENTRIES[key]
    if isinstance(item, dict):
        if {"target", "inputs", "outputs"} <= set(item):
            _operation(item["target"])
        for name in item:
            _name(name)
        return {name: _graph(value, name) for name, value in item.items()}
    if isinstance(item, list):
        return [_graph(value, key) for value in item]
    if isinstance(item, str):
        if key == "expr_str":
            _expression(item)
        elif key in ("in_spec", "out_spec"):
            _pytree(json.loads(item)[1] if item else None)
        else:
            _name(item)
    return item


def _name(text: str) -> None:
    """Refuse names that could be executed."""
    if not PLAIN_TEXT.fullmatch(text):
        raise _RefusedError(f"the name {text[:60]!r}")


def _operation(target: str) -> None:
    """Refuse calls other than ATen operations that return tensors or sizes, and arithmetic on sizes."""
    parts = target.split(".")
    if len(parts) == 2 and ((parts[0] == "_operator" and parts[1] in ARITHMETIC) or parts[0] == "math"):
        return
    if len(parts) == 2 and parts[0] == "torch" and parts[1].removeprefix("_") in SYMBOLIC:
        return
    if parts[:3] == ["torch", "ops", "aten"] and len(parts) == 5:
        packet = getattr(torch.ops.aten, parts[3], None)
        overload = getattr(packet, parts[4], None) if parts[4] in getattr(packet, "overloads", list)() else None
        returns = [str(value.type) for value in overload._schema.returns] if overload else []
        allowed = any("Tensor" in kind for kind in returns) or parts[3].startswith(("sym_", "_assert_tensor"))
        if overload and allowed and parts[3] != "from_file":
            return
    raise _RefusedError(f"a call of {target[:80]}")


def _expression(text: str) -> None:
    """Refuse anything but arithmetic on symbols: SymPy would evaluate it as Python."""
    allowed = (
        *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare),
        *(ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.BoolOp),
    )
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError):
        raise _RefusedError(f"the expression {text[:60]!r}") from None
    for node in nodes:
        known = not isinstance(node, ast.Call) or (isinstance(node.func, ast.Name) and node.func.id in CALLS)
        plain = not isinstance(node, ast.Name) or node.id in CALLS or re.fullmatch(r"[a-z]{1,2}\d+|True|False", node.id)
        quoted = not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or node.value.isidentifier()
        if not (isinstance(node, allowed) and known and plain and quoted):
            raise _RefusedError(f"the expression {text[:60]!r}")


def _pytree(spec: Any) -> None:
    """Refuse inputs and outputs nested in containers other than Python's own."""
    if spec is None:
        return
    if spec["type"] not in PYTREES or "__enum__" in json.dumps(spec["context"]):
        raise _RefusedError(f"a container {spec['type']}")
    for child in spec["children_spec"]:
        _pytree(child)
