"""Segmentation of images by scikit-image, which is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import Any

from unfooled.compat.lime.utils.generic_utils import has_arg
from unfooled.core.errors import BadInput, nearest

__all__ = ["BaseWrapper", "SegmentationAlgorithm", "segmenter"]

ALGORITHMS = ("quickshift", "slic", "felzenszwalb")
PRESENT_NAMES = {"random_seed": "rng", "seed": "rng", "max_iter": "max_num_iter"}
"""Options that scikit-image has renamed since lime was written."""


def segmenter(name: str) -> Callable[..., Any]:
    """Return a function of `skimage.segmentation`, or raise an error that says what to install."""
    try:
        from skimage import segmentation
    except (ImportError, RuntimeError, OSError) as error:
        raise BadInput(
            f"{name} needs scikit-image: pip install scikit-image, or pass a segmentation_fn of your own, from an "
            f"image to an array of integers; importing it failed: {error}"
        ) from error
    function: Callable[..., Any] = getattr(segmentation, name)
    return function


class BaseWrapper:
    """A function with the options it will be called with.

    Args:
        target_fn: Function, or object with a `__call__`.
        target_params: Options to call it with.
    """

    def __init__(self, target_fn: Callable[..., Any] | None = None, **target_params: Any) -> None:
        self.target_fn = target_fn
        self.target_params = target_params

    def _check_params(self, parameters: Iterable[str]) -> None:
        """Raise an error unless the function takes every parameter.

        Raises:
            TypeError: no function, or a text in place of a list of names.
            ValueError: a name that the function does not take.
        """
        target: Any = self.target_fn
        if target is None:
            if not callable(self):
                raise TypeError("there is no function to check the parameters against: pass target_fn")
            target = self.__call__
        elif not isinstance(target, FunctionType | MethodType):
            target = target.__call__
        if isinstance(parameters, str):
            raise TypeError(f"parameters must be a list or a dictionary of names, not the text {parameters!r}")
        for name in parameters:
            if not has_arg(target, name):
                raise BadInput(f"{name} is not a parameter of {getattr(target, '__name__', target)}")

    def set_params(self, **params: Any) -> None:
        """Replace the options.

        Args:
            params: Options to call the function with.

        Raises:
            ValueError: a name that the function does not take.
        """
        self._check_params(params)
        self.target_params = params

    def filter_params(self, fn: Callable[..., Any], override: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the options that a function takes.

        Args:
            fn: Function whose parameters count.
            override: Options that replace or complete them.
        """
        own = {name: value for name, value in self.target_params.items() if has_arg(fn, name)}
        return {**own, **(override or {})}


class SegmentationAlgorithm(BaseWrapper):
    """A segmentation of images: call it with an image, and it returns an array of integers, (H, W).

    Args:
        algo_type: Name of the algorithm: "quickshift", "slic" or "felzenszwalb".
        target_params: Options of the function in `skimage.segmentation`, under its present names or those of lime's
            time. A seed is dropped where the algorithm draws nothing.

    Raises:
        BadInput: another name, an option that the function does not take, or scikit-image is not installed.
    """

    def __init__(self, algo_type: str, **target_params: Any) -> None:
        if algo_type not in ALGORITHMS:
            raise BadInput(f"algo_type must be one of {', '.join(ALGORITHMS)}, not {algo_type!r}")
        self.algo_type = algo_type
        function = segmenter(algo_type)
        super().__init__(function, **present_options(function, target_params))
        self.set_params(**self.target_params)

    def __call__(self, *args: Any) -> Any:
        """Return the segments of an image, the first argument."""
        assert self.target_fn is not None
        return self.target_fn(args[0], **self.target_params)


def present_options(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return options under the names that the installed scikit-image uses.

    Raises:
        BadInput: an option that the function does not take.
    """
    known = [name for name in options if has_arg(function, name)]
    result = {name: options[name] for name in known}
    for name in options.keys() - known:
        present = PRESENT_NAMES.get(name, name)
        if has_arg(function, present):
            result[present] = options[name]
        elif name == "multichannel" and has_arg(function, "channel_axis"):
            result["channel_axis"] = -1 if options[name] else None
        elif present != "rng":
            import inspect

            others = nearest(name, inspect.signature(function).parameters)
            raise BadInput(f"{function.__name__} of scikit-image has no option {name!r}{others}")
    return result
