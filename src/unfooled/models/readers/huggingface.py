"""Image classifiers in a folder of the Hugging Face transformers library (optional): `config.json` and weights.

Nothing is downloaded, and code inside the folder is not run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.core.limits import read_regular, regular
from unfooled.models.readers.loaded import Loaded

MAX_BYTES = 1 << 25  # largest size of a JSON file in bytes
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file does not exist."""
    if not regular(path).is_file():
        return {}
    try:
        content = json.loads(read_regular(path, most=MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds a {type(content).__name__}; it must be an object")
    return content


def from_folder(folder: Path) -> Loaded:
    """Load an image classifier with its class names, normalisation and input shape.

    Args:
        folder: Folder that holds `config.json` and weights.

    Raises:
        BadInput: The folder does not hold such a model, transformers is not installed, or it cannot load the model.
    """
    config = _json(folder / "config.json")
    if not config:
        raise BadInput(f"{folder} is a folder without a config.json; a model is a file, or a Hugging Face folder")
    weights = [name for name in WEIGHTS if (folder / name).is_file()]
    if not weights:
        raise BadInput(f"{folder} has a config.json but no weights ({', '.join(WEIGHTS[::2])})")
    try:
        import transformers
    except (ImportError, RuntimeError, OSError) as error:
        raise BadInput(
            f"{folder} is a Hugging Face model; it needs the hf extra (pip install -e '.[hf]'); importing "
            f"transformers failed: {error}"
        ) from error
    try:
        module, report = transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors="safetensors" in weights[0],
            output_loading_info=True,
        )
    except Exception as error:  # transformers has no common base class of errors
        detail = (str(error).strip().splitlines() or [""])[0][:200]
        raise BadInput(
            f"{folder} ({config.get('model_type', 'unknown type')}) cannot be loaded as an image classifier: "
            f"{type(error).__name__}: {detail}"
        ) from error
    # transformers only warns and fills these with random numbers: a base model without a head would seem to work.
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise BadInput(
            f"{folder} holds no weights for {len(lacking)} parts of the model (the first: {lacking[0]}); is it a base "
            "model, without a classifier?"
        )
    mean, std, shape = _preprocessing(_json(folder / "preprocessor_config.json"), config)
    return Loaded(module, folder.resolve().name, mean, std, _names(config), shape)


def _names(config: dict[str, Any]) -> list[str] | None:
    """Return class names in the order of their ids."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        return None
    if not all(str(key).isdecimal() and isinstance(name, (str, int)) for key, name in names.items()):
        raise BadInput("the id2label of config.json is no table from 0, 1, 2, ... to class names")
    keys = sorted(names, key=int)
    if [int(key) for key in keys] != list(range(len(keys))):
        raise BadInput(
            f"the id2label of config.json has the indices {', '.join(map(str, keys[:4]))}{', ...' * (len(keys) > 4)}; "
            "the outputs are 0, 1, 2, ..."
        )
    return [str(names[key]) for key in keys]


def _preprocessing(facts: dict[str, Any], config: dict[str, Any]) -> tuple[Any, Any, tuple[int, int, int] | None]:
    """Return mean, standard deviation and input shape."""
    mean, std = _statistics(facts)
    size = facts.get("crop_size") if facts.get("do_center_crop") else facts.get("size")
    size = size if size is not None else config.get("image_size")
    if isinstance(size, dict):
        sides = (size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge")))
    elif isinstance(size, (list, tuple)) and len(size) == 2:
        sides = (size[0], size[1])
    else:
        sides = (size, size)
    height, width = sides
    if not (isinstance(height, int) and isinstance(width, int)):
        return mean, std, None
    return mean, std, (int(config.get("num_channels", 3)), height, width)


def _statistics(facts: dict[str, Any]) -> tuple[Any, Any]:
    """Return mean and standard deviation that do to images in [0, 1] what the image processor does to bytes.

        z = ((255 f x - o) - mean) / std        f: rescale_factor, o: 1 if rescale_offset, else 0

    EfficientNet's processor divides by std once more (`include_top`).

    Raises:
        BadInput: The processor reverses the channels, or its numbers cannot be read.
    """
    if facts.get("do_flip_channel_order"):
        raise BadInput(
            "the model takes colours in the order blue, green, red (do_flip_channel_order of "
            "preprocessor_config.json); give a factory of your own, file.py:name, that returns a module with "
            "net(x.flip(1)) in its forward"
        )
    normalises, rescales = facts.get("do_normalize", True), facts.get("do_rescale", True)
    mean, std = (facts.get(key) if normalises else None for key in ("image_mean", "image_std"))
    try:
        scale = 255 * float(facts.get("rescale_factor") or 1 / 255) if rescales else 255.0
        offset = 1.0 if rescales and facts.get("rescale_offset") else 0.0
        again = facts.get("image_std") if facts.get("include_top") else None
        if abs(scale - 1) < 1e-6 and not offset and again is None:
            return mean, std
        centre, spread, last = (np.atleast_1d(np.array(v, float)) for v in (mean or 0.0, std or 1.0, again or 1.0))
        centre, spread, last = np.broadcast_arrays(centre, spread, last)
        return ((centre + offset) / scale).tolist(), (spread * last / scale).tolist()
    except (TypeError, ValueError) as error:
        raise BadInput(f"the numbers in preprocessor_config.json cannot be read: {error}") from error
