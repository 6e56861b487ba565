"""Explanations of image classifiers by superpixels that are shown or hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from unfooled.compat.lime import lime_base
from unfooled.compat.lime.checks import array_of, check_request, labels_of, one_row_each, random_state_of
from unfooled.compat.lime.kernels import distances_to_first, kernel_of
from unfooled.compat.lime.pickled import Pickled
from unfooled.compat.lime.utils.generic_utils import has_arg
from unfooled.compat.lime.wrappers.scikit_image import SegmentationAlgorithm, segmenter
from unfooled.core.errors import BadInput

__all__ = ["ImageExplanation", "LimeImageExplainer"]

Array = npt.NDArray[Any]


class ImageExplanation(Pickled):
    """The weights of an image's superpixels, for each explained label.

    Args:
        image: Image, (H, W, C).
        segments: Superpixel of each pixel, (H, W), integers.

    Attributes:
        local_exp: For each label (superpixel, weight), the largest |weight| first.
        intercept: For each label the intercept.
        score: Weighted R2 in sample of the label fitted last.
        local_pred: Fitted answer at the image, of the label fitted last.
        top_labels: Labels explained, the most probable first. None: `top_labels` was not given.
    """

    def __init__(self, image: Array, segments: Array) -> None:
        self.image = image
        self.segments = segments
        self.intercept: dict[int, float] = {}
        self.local_exp: dict[int, list[tuple[int, float]]] = {}
        self.local_pred: Array | None = None
        self.score: float | None = None
        self.top_labels: list[int] | None = None

    def get_image_and_mask(
        self,
        label: int,
        positive_only: bool = True,
        negative_only: bool = False,
        hide_rest: bool = False,
        num_features: int = 5,
        min_weight: float = 0.0,
    ) -> tuple[Array, Array]:
        """Return an image that shows the most important superpixels, and their mask, (H, W).

        Args:
            label: Label that was explained.
            positive_only: Whether to leave out superpixels against the label.
            negative_only: Whether to leave out superpixels for the label.
            hide_rest: Whether all other superpixels become black.
            num_features: Superpixels at most.
            min_weight: Least |weight|.

        Returns:
            With one sign, the image and a mask of 1 (superpixel shown) and 0. With both signs, superpixels for the
            label are painted in the second channel and have mask 1, those against it in the first and have -1.

        Raises:
            KeyError: the label was not explained.
            ValueError: both signs alone.
        """
        if label not in self.local_exp:
            raise KeyError(f"label {label} was not explained; explained labels: {sorted(self.local_exp)}")
        if positive_only and negative_only:
            raise BadInput("positive_only and negative_only cannot both be true; with both false, both signs are shown")
        weights = self.local_exp[label]
        shown = np.zeros(self.image.shape) if hide_rest else self.image.copy()
        mask = np.zeros(self.segments.shape, self.segments.dtype)
        if positive_only or negative_only:
            sign = 1 if positive_only else -1
            wanted = [(f, 1) for f, w in weights if sign * w > max(min_weight, 0.0)][:num_features]
        else:
            wanted = [(f, -1 if w < 0 else 1) for f, w in weights[:num_features] if abs(w) >= min_weight]
        for feature, code in wanted:
            inside = self.segments == feature
            shown[inside] = self.image[inside]
            mask[inside] = code
            if not (positive_only or negative_only):
                shown[inside, min(max(code, 0), shown.shape[-1] - 1)] = np.max(self.image)
        return shown, mask


class LimeImageExplainer:
    """An explainer of image classifiers.

    Superpixels are hidden at random, each with probability 1/2, and a linear model of what the classifier answers is
    fitted: pi = exp(-d^2 / 2 w^2), d the distance to the image, w the width.

    Args:
        kernel_width: Width of the kernel.
        kernel: Function of distances and `kernel_width`, to weights. None: the exponential kernel.
        verbose: Whether to print the model's answer and the fitted one.
        feature_selection: How superpixels are selected; see `LimeBase.feature_selection`.
        random_state: Seed, or random stream. None: numpy's global stream.
    """

    def __init__(
        self,
        kernel_width: float = 0.25,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        feature_selection: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.random_state = random_state_of(random_state)
        self.feature_selection = feature_selection
        self.base = lime_base.LimeBase(kernel_of(kernel, kernel_width), verbose, self.random_state)

    def explain_instance(
        self,
        image: Array,
        classifier_fn: Callable[..., Any],
        labels: Iterable[int] | None = (1,),
        hide_color: Any = None,
        top_labels: int | None = 5,
        num_features: int = 100000,
        num_samples: int = 1000,
        batch_size: int = 10,
        segmentation_fn: Callable[[Array], Array] | None = None,
        distance_metric: Any = "cosine",
        model_regressor: Any = None,
        random_seed: int | None = None,
        progress_bar: bool = True,
    ) -> ImageExplanation:
        """Return the explanation of one prediction.

        Args:
            image: Image, (H, W, C), or (H, W), which becomes three equal channels.
            classifier_fn: Function from images, (N, H, W, C), to probabilities, (N, K).
            labels: Labels to explain, unless `top_labels` is given.
            hide_color: Value or colour of hidden superpixels. None: the mean colour of each.
            top_labels: Number of labels to explain, those with the largest probabilities. None or 0: `labels`.
            num_features: Superpixels that the explanation names, at most.
            num_samples: Images that are composed, the image itself included.
            batch_size: Images a call of the classifier.
            segmentation_fn: Function from the image to superpixels, (H, W), integers from 0 on. None: quickshift.
            distance_metric: Distance of masks, as in `sklearn.metrics.pairwise_distances`.
            model_regressor: Regressor of scikit-learn. None: ridge with a penalty of 1.
            random_seed: Seed of the segmentation. None: drawn.
            progress_bar: Accepted for later versions of lime; there is no progress bar.
        """
        check_request(classifier_fn, num_samples, num_features, top_labels)
        image = pixels_of(image)
        if random_seed is None:
            random_seed = int(self.random_state.randint(0, high=1000))
        segments = segments_of(image, segmentation_fn, random_seed)
        hidden = hidden_image(image, segments, hide_color)
        data, answer = self.data_labels(image, hidden, segments, classifier_fn, num_samples, batch_size=batch_size)
        result = ImageExplanation(image, segments)
        wanted = labels_of(result, answer, labels, top_labels)
        distances = distances_to_first(data, distance_metric)
        samples = (data, answer, distances)
        lime_base.explain_labels(
            result, self.base, wanted, samples, num_features, self.feature_selection, model_regressor
        )
        return result

    def data_labels(
        self,
        image: Array,
        fudged_image: Array,
        segments: Array,
        classifier_fn: Callable[..., Any],
        num_samples: int,
        batch_size: int = 10,
        progress_bar: bool = True,
    ) -> tuple[Array, Array]:
        """Return the masks, (S, M), and the classifier's answers, (S, K).

        Args:
            image: Image, (H, W, C).
            fudged_image: Image whose pixels replace the hidden ones.
            segments: Superpixel of each pixel, (H, W). Ids are read as 0 to M - 1, as in the original: with ids from 1
                on, column 0 does nothing, and the last superpixel is never hidden.
            classifier_fn: Function from images to probabilities.
            num_samples: Images that are composed; the first one shows everything.
            batch_size: Images a call of the classifier.
            progress_bar: Accepted for later versions of lime; there is no progress bar.
        """
        if batch_size < 1:
            raise BadInput(f"batch_size must be at least 1, not {batch_size}")
        count = len(np.unique(segments))
        data = self.random_state.randint(0, 2, num_samples * count).reshape(num_samples, count)
        data[0] = 1
        column = np.where((segments >= 0) & (segments < count), segments, count).astype(np.intp)
        parts = []
        for start in range(0, num_samples, batch_size):
            masks = data[start : start + batch_size]
            # The images lie in memory as the original's do: a sum over one is rounded in the order of memory.
            visible = np.concatenate([masks != 0, np.ones((len(masks), 1), dtype=bool)], axis=1).take(column, axis=1)
            visible = visible.reshape(visible.shape + (1,) * (image.ndim - segments.ndim))
            parts.append(array_of(classifier_fn(np.ascontiguousarray(np.where(visible, image, fudged_image)))))
        return data, one_row_each(parts, num_samples)


def pixels_of(image: Any) -> Array:
    """Return an image as an array, (H, W, C), a grey one with three equal channels."""
    array = array_of(image)
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
        given = f"shape {array.shape}" if array.ndim and array.dtype.kind in "biuf" else f"a {type(image).__name__}"
        more = "; pass image[0]" if array.ndim == 4 and len(array) == 1 else ""
        raise BadInput(f"image must be one image of numbers, (H, W, C) or (H, W), not {given}{more}")
    return np.stack([array] * 3, axis=-1) if array.ndim == 2 else array


def segments_of(image: Array, segmentation_fn: Callable[[Array], Array] | None, seed: int) -> Array:
    """Return the superpixel of each pixel.

    Args:
        image: image, (H, W, C).
        segmentation_fn: function from the image to superpixels; None: quickshift.
        seed: seed for a quickshift whose option is called `random_seed`. Where scikit-image has renamed it, the
            original passes none, and neither does this.
    """
    if segmentation_fn is None:
        if image.shape[2] != 3:
            more = ", or image.transpose(1, 2, 0)" if image.shape[0] in (1, 3) else ""
            raise BadInput(f"the default segmentation needs (H, W, 3), not {image.shape}; pass segmentation_fn{more}")
        options = {"random_seed": seed} if has_arg(segmenter("quickshift"), "random_seed") else {}
        segmentation_fn = SegmentationAlgorithm("quickshift", kernel_size=4, max_dist=200, ratio=0.2, **options)
    if not callable(segmentation_fn):
        raise BadInput(
            f'segmentation_fn is {segmentation_fn!r}; pass a function, such as SegmentationAlgorithm("slic")'
        )
    segments = np.asarray(segmentation_fn(image))
    if segments.shape != image.shape[:2]:
        raise BadInput(
            f"segmentation_fn must return one integer a pixel, {image.shape[:2]}, not shape {segments.shape}"
        )
    return segments


def hidden_image(image: Array, segments: Array, hide_color: Any) -> Array:
    """Return the image with every superpixel hidden.

    Args:
        image: image, (H, W, C).
        segments: superpixel of each pixel.
        hide_color: value or colour; None: the mean colour of each superpixel.
    """
    hidden = image.copy()
    if hide_color is not None:
        try:
            hidden[:] = hide_color
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(f"hide_color must be a number, or one a channel, not {hide_color!r}") from error
        return hidden
    flat, pixels = hidden.reshape(-1, image.shape[2]), image.reshape(-1, image.shape[2])
    order = np.argsort(segments, axis=None, kind="stable")
    starts = np.flatnonzero(np.diff(segments.reshape(-1)[order])) + 1
    for inside in np.split(order, starts):
        block = pixels[inside]
        flat[inside] = [np.mean(block[:, channel]) for channel in range(block.shape[1])]
    return hidden
