"""Local surrogate explanations (LIME) for images, texts and tables."""

from unfooled.explanations.lime.attention import attention_mask
from unfooled.explanations.lime.balance import balanced
from unfooled.explanations.lime.baselines import blur, constant, dataset_mean, expected, noise, segment_mean
from unfooled.explanations.lime.discretize import deciles, entropy_bins, quartiles
from unfooled.explanations.lime.findings import Flag, Kind
from unfooled.explanations.lime.gaussian import conditional_normal
from unfooled.explanations.lime.image import lime_image, lime_map
from unfooled.explanations.lime.kernels import cosine_kernel, hamming_kernel, l2_kernel, uniform, width_for
from unfooled.explanations.lime.leading import (
    Stability,
    with_part_stability,
    with_row_stability,
    with_stability,
    with_text_stability,
)
from unfooled.explanations.lime.mixed import image_part, lime_parts, row_part, text_part
from unfooled.explanations.lime.pick import Pick, any_cover, soft_cover, submodular_pick
from unfooled.explanations.lime.predicting import identity, log_odds
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.samplers import (
    Design,
    bernoulli,
    by_size,
    every_mask,
    hadamard,
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
from unfooled.explanations.lime.tables import around, by_bins, conditional, hidden, neighbours, stratified_normal
from unfooled.explanations.lime.tabular import TabularSpace, lime_tabular
from unfooled.explanations.lime.text import (
    characters,
    delete,
    lime_text,
    mask_token,
    offsets,
    positions,
    sentences,
    types,
    words,
)

__all__ = [
    "Design",
    "Fit",
    "Flag",
    "Gram",
    "Kind",
    "Pick",
    "Prior",
    "Stability",
    "Surrogates",
    "TabularSpace",
    "any_cover",
    "around",
    "attention_mask",
    "balanced",
    "bernoulli",
    "blur",
    "by_bins",
    "by_size",
    "characters",
    "conditional",
    "conditional_normal",
    "constant",
    "contiguous",
    "cosine_kernel",
    "dataset_mean",
    "deciles",
    "delete",
    "entropy_bins",
    "every_mask",
    "expected",
    "felzenszwalb",
    "fit",
    "grid",
    "hadamard",
    "hamming_kernel",
    "hidden",
    "identity",
    "image_part",
    "kernel_sizes",
    "l2_kernel",
    "leverage",
    "lime_image",
    "lime_map",
    "lime_parts",
    "lime_tabular",
    "lime_text",
    "log_odds",
    "mask_token",
    "neighbours",
    "noise",
    "offsets",
    "paired",
    "positions",
    "quartiles",
    "quickshift",
    "row_part",
    "segment_mean",
    "select_forward",
    "select_largest",
    "sentences",
    "slic",
    "soft_cover",
    "stratified_normal",
    "submodular_pick",
    "text_part",
    "types",
    "uniform",
    "until_stable",
    "width_for",
    "with_part_stability",
    "with_row_stability",
    "with_stability",
    "with_text_stability",
    "words",
]
