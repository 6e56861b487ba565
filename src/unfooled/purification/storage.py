"""Purifiers on disk: a folder with `purifier.npz` and `purifier.json`; nothing is pickled.

    purifier.npz     clusters, dictionaries, and the encoder's weights as `encoder/I/NAME` for its I-th module
    purifier.json    options, seed, sizes, how clusters were chosen; hash, layer and architecture of the encoder

The folder is enough to use the purifier in front of any model where the encoder is a layer of a network that
`models.ARCHITECTURES` names. An encoder that is the user's own code cannot be built from the folder: it is passed to
`load_purifier`; its weights must be those of the fit, and its latents of some noise.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.limits import read_regular
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.encoder import Encoder, root_of
from unfooled.core.model.modes import evaluating
from unfooled.data.formats.npz import archive
from unfooled.models.architectures import ARCHITECTURES, architectures_of, build_like
from unfooled.purification.clusters import ClassFit, Clusters
from unfooled.runs.files import write_whole
from unfooled.runs.hashes import content_hash, weights_hash

Encode = Callable[[Tensor], Tensor]
"""x (B, C, H, W) -> latents (B, *F), differentiable; a sample's latents do not depend on the others."""

ARRAYS, FACTS = "purifier.npz", "purifier.json"
PROBE, PROBES, MAX_LATENTS = "encoder/latents of noise", 2, 64
"""Array that tells encoders apart whose code differs and not their weights; images of noise, and latents of each."""
FORMAT = 1
MAX_JSON = 1 << 26
"""Largest size of the JSON file in bytes."""
PARTS = ("mean", "precision", "logdet", "label", "basis", "offset")


@dataclass(frozen=True, eq=False)
class Stored:
    """Parts of a purifier as they are stored.

    Attributes:
        encode: The encoder.
        clusters: The clusters.
        dictionaries: The dictionaries, (M, A, C, size, size).
        options: The other arguments of the purifier, JSON values.
        about: Facts about the fit, JSON values.
    """

    encode: Encode
    clusters: Clusters
    dictionaries: Tensor
    options: Mapping[str, Any]
    about: Mapping[str, Any]


def encoder_hash(encode: Encode) -> str:
    """Return the SHA-256 of an encoder: the weights behind it and its layer."""
    return content_hash([weights_hash(encode), getattr(encode, "layer", ""), bool(getattr(encode, "relu", False))])


def write_purifier(purify: Stored, folder: str | Path) -> None:
    """Write a purifier, its encoder's weights included, to a folder, which is created.

    Args:
        purify: Its parts.
        folder: Folder; files of an earlier purifier in it are replaced.

    Raises:
        BadInput: The folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made: {error}; give another folder") from None
    arrays = {f"clusters/{name}": getattr(purify.clusters, name) for name in PARTS}
    arrays["dictionaries"] = purify.dictionaries
    for i, module in enumerate(modules_of(purify.encode)):
        arrays |= {f"encoder/{i}/{name}": value for name, value in module.state_dict().items()}
    if (latents := _probed(purify.encode, purify.about)) is not None:
        arrays[PROBE] = latents
    content = io.BytesIO()
    short = [name for name, value in arrays.items() if value.dtype is torch.bfloat16]  # NumPy has no such type
    arrays |= {name: arrays[name].contiguous().view(torch.int16) for name in short}
    np.savez(content, **{name: value.detach().cpu().numpy() for name, value in arrays.items()})
    facts = {
        "format": FORMAT,
        "options": dict(purify.options),
        "about": dict(purify.about),
        "encoder": {"hash": encoder_hash(purify.encode), **_network(purify)},
        "fits": [_plain(asdict(fit)) for fit in purify.clusters.fits],
        "bfloat16": short,
    }
    # The facts come last: with them the purifier is complete.
    try:
        (folder / FACTS).unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{folder / FACTS} cannot be written: {error}; give another folder") from None
    write_whole(folder / ARRAYS, content.getvalue())
    write_whole(folder / FACTS, json.dumps(facts, indent=2, allow_nan=False).encode())


class UnknownEncoder(BadInput):
    """Report of an encoder that its folder cannot build, since unfooled does not have its architecture."""


def read_purifier(folder: str | Path, encode: Encode | None = None) -> Stored:
    """Read what `write_purifier` wrote; see `semantic.load_purifier`."""
    folder = Path(folder)
    facts = _facts(folder)
    with archive(folder / ARRAYS, advice="save the purifier again, or fit it anew") as opened:
        try:
            arrays = {name: torch.from_numpy(np.array(opened[name])) for name in opened}
        except TypeError as error:
            raise damaged(folder, error) from None
    try:
        for name in facts.get("bfloat16", []):
            arrays[name] = arrays[name].view(torch.bfloat16)
        for name in ("options", "about", "encoder"):
            if not isinstance(facts[name], dict):
                raise TypeError(f"{name} in {FACTS} is {facts[name]!r}")
        clusters = Clusters(**{name: arrays[f"clusters/{name}"] for name in PARTS}, fits=_fits(facts["fits"]))
        _check_shapes(clusters)
        if encode is None:
            encode = _rebuilt(folder, facts, arrays)
        elif encoder_hash(encode) != facts["encoder"]["hash"]:
            known = facts["encoder"]["architecture"] in ARCHITECTURES
            mend = "leave it out: the folder has its own encoder" if known else "give the one that it was fitted with"
            raise BadInput(
                f"encode has other weights, or another layer, than the encoder that {folder} was fitted with; {mend}, "
                "and any model may be guarded by the purifier"
            )
        elif not _answers_alike(encode, facts["about"], arrays.get(PROBE)):
            raise BadInput(f"encode gives other latents than the encoder that {folder} was fitted with; give that one")
        return Stored(encode, clusters, arrays["dictionaries"], facts["options"], facts["about"])
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        raise damaged(folder, error) from None


def stored_layer(folder: str | Path) -> tuple[str, bool]:
    """Return the layer of a stored purifier's encoder, and whether a ReLU follows it.

    Raises:
        BadInput: A folder without a purifier, or an encoder that is no layer of a network.
    """
    known = _facts(Path(folder)).get("encoder")
    if not isinstance(known, dict) or not known.get("layer"):
        raise BadInput(
            f"the encoder of {folder} is no layer of a network; give the encoder itself, load_purifier(folder, encode)"
        )
    return str(known["layer"]), bool(known.get("relu"))


def _facts(folder: Path) -> dict[str, Any]:
    """Return the content of the JSON file; refuse a folder that is no purifier."""
    missing = [name for name in (ARRAYS, FACTS) if not (folder / name).is_file()]
    if missing:
        raise BadInput(
            f"{folder} has no {' and no '.join(missing)}; a purifier is a folder that `purify.save(folder)` wrote"
        )
    try:
        facts = json.loads(read_regular(folder / FACTS, most=MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise damaged(folder, error) from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise BadInput(f"{folder / FACTS} is no description of a purifier of format {FORMAT}; save the purifier again")
    return facts


def damaged(folder: str | Path, error: Exception) -> BadInput:
    """Return the error for files that do not fit together."""
    return BadInput(f"the files of the purifier in {folder} do not fit together or are damaged: {error}; save it again")


def _network(purify: Stored) -> dict[str, Any]:
    """Return what is needed to build the encoder again; an empty architecture where that is not possible."""
    encode = purify.encode
    if not isinstance(encode, Encoder):
        return {"architecture": ""}
    root = root_of(encode.model)
    names = architectures_of(root.state_dict())
    shape = purify.about.get("shape")
    fits = [name for name in names if type(root) is type(_built(name, root.state_dict(), shape))] if shape else []
    return {
        "architecture": fits[0] if fits else "",
        "layer": encode.layer,
        "relu": encode.relu,
        "classifier": isinstance(encode.model, Classifier),
        "normalises": bool(getattr(encode.model, "normalises", False)),
    }


def _built(architecture: str, state: dict[str, Tensor], shape: list[int]) -> nn.Module:
    """Build a network with fresh weights; the global generator is not changed."""
    with torch.random.fork_rng(devices=[]):
        return build_like(architecture, state, input_shape=tuple(shape))


def _rebuilt(folder: Path, facts: dict[str, Any], arrays: dict[str, Tensor]) -> Encoder:
    """Return the encoder that the folder describes."""
    known = facts["encoder"]
    if known["architecture"] not in ARCHITECTURES:
        raise UnknownEncoder(
            f"the encoder of {folder} has an architecture that unfooled does not have; give encode, the encoder "
            "that it was fitted with"
        )
    prefix = "encoder/0/"
    state = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    bare = {name.removeprefix("module."): value for name, value in state.items()} if known["classifier"] else state
    weights = {name: value for name, value in bare.items() if not known["classifier"] or name not in ("mean", "std")}
    model = _built(known["architecture"], weights, facts["about"]["shape"])
    if known["classifier"]:
        mean, std = (state[name].tolist() if known["normalises"] else None for name in ("mean", "std"))
        model = Classifier(model, mean=mean, std=std)
    model.load_state_dict(state, assign=True)  # each in its own type
    encode = Encoder(model.eval().requires_grad_(False), known["layer"], known["relu"])
    if encoder_hash(encode) != known["hash"]:
        raise BadInput(
            f"the encoder in {folder} does not have the hash that is stored with it; save the purifier again"
        )
    return encode


def _probed(encode: Encode, about: Mapping[str, Any]) -> Tensor | None:
    """Return an encoder's latents of some fixed noise; None where the shape of images is not known, or it fails."""
    if not (shape := about.get("shape")):
        return None
    noise = torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0))
    weight = next((p for module in modules_of(encode) for p in module.parameters() if p.is_floating_point()), noise)
    try:
        with torch.no_grad(), evaluating(encode):
            latents = encode(noise.to(weight.device, weight.dtype))
    except Exception:
        return None
    return latents.detach().double().flatten(1)[:, :MAX_LATENTS].cpu() if isinstance(latents, Tensor) else None


def _answers_alike(encode: Encode, about: Mapping[str, Any], stored: Tensor | None) -> bool:
    """Return whether an encoder gives the latents that were stored; True where none were."""
    own = None if stored is None else _probed(encode, about)
    if stored is None or own is None:
        return True
    return own.shape == stored.shape and torch.allclose(own, stored.double(), rtol=1e-2, atol=1e-4)


def _check_shapes(clusters: Clusters) -> None:
    """Refuse arrays of clusters that do not fit together."""
    if clusters.mean.ndim != 2 or clusters.offset.ndim != 1:
        raise TypeError(f"mean has shape {tuple(clusters.mean.shape)}, offset {tuple(clusters.offset.shape)}")
    m, d = clusters.mean.shape
    p = len(clusters.offset)
    wanted = {"precision": (m, d, d), "logdet": (m,), "label": (m,), "basis": (p, d), "offset": (p,)}
    for name, shape in wanted.items():
        if tuple(getattr(clusters, name).shape) != shape:
            raise TypeError(f"{name} has shape {tuple(getattr(clusters, name).shape)}, not {shape}")


def _plain(fit: dict[str, Any]) -> dict[str, Any]:
    """Return a fit as JSON can hold it, with None for NaN."""
    fit["stability"] = [None if math.isnan(value) else value for value in fit["stability"]]
    fit["silhouette"] = None if math.isnan(fit["silhouette"]) else fit["silhouette"]
    return fit


def _fits(stored: list[dict[str, Any]]) -> tuple[ClassFit, ...]:
    """Return the fits that `_plain` wrote."""
    return tuple(
        ClassFit(
            label=fit["label"], n=fit["n"], k=fit["k"], sizes=tuple(fit["sizes"]), bic=tuple(fit["bic"]),
            stability=tuple(math.nan if value is None else value for value in fit["stability"]),
            silhouette=math.nan if fit["silhouette"] is None else fit["silhouette"],
        )
        for fit in stored
    )  # fmt: skip
