"""Local surrogate explanations (LIME) for images, texts and tables."""

from unfooled.explanations.lime.baselines import blur, constant, dataset_mean, expected, noise, segment_mean
from unfooled.explanations.lime.image import lime_image, lime_map
from unfooled.explanations.lime.kernels import cosine_kernel, hamming_kernel, l2_kernel, uniform, width_for
from unfooled.explanations.lime.result import Flag, Kind, Surrogates
from unfooled.explanations.lime.samplers import (
    Design,
    bernoulli,
    by_size,
    every_mask,
    hadamard,
    independent,
    kernel_sizes,
    leverage,
    paired,
)
from unfooled.explanations.lime.segments import contiguous, felzenszwalb, grid, quickshift, slic
from unfooled.explanations.lime.surrogate import (
    Fit,
    Gram,
    Prior,
    fit,
    select_forward,
    select_largest,
    until_stable,
)

__all__ = [
    "Design",
    "Fit",
    "Flag",
    "Gram",
    "Kind",
    "Prior",
    "Surrogates",
    "bernoulli",
    "blur",
    "by_size",
    "constant",
    "contiguous",
    "cosine_kernel",
    "dataset_mean",
    "every_mask",
    "expected",
    "felzenszwalb",
    "fit",
    "grid",
    "hadamard",
    "hamming_kernel",
    "independent",
    "kernel_sizes",
    "l2_kernel",
    "leverage",
    "lime_image",
    "lime_map",
    "noise",
    "paired",
    "quickshift",
    "segment_mean",
    "select_forward",
    "select_largest",
    "slic",
    "uniform",
    "until_stable",
    "width_for",
]
