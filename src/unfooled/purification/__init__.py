"""Purification: functions x -> x in front of a model, and `guard`, which lets attacks see the purifier too.

`fit_purifier` learns a semantic purifier (arXiv:2104.02155): clusters of latents, one dictionary for each, high
frequencies rebuilt from clean atoms. `jpeg`, `median`, `total_variation`, `bit_depth`, `low_band`, `resized` and
`fit_autoencoder` are the classical ones. `guard(model, purify)` is the guarded model. What a purifier
adds is the accuracy under attacks on the guarded model, never that under attacks on the bare one.
"""

from unfooled.purification.bands import split
from unfooled.purification.classic import (
    DenoisingAutoencoder,
    bit_depth,
    fit_autoencoder,
    identity,
    jpeg,
    low_band,
    median,
    resized,
    total_variation,
)
from unfooled.purification.clusters import ClassFit, Clusters, fit_clusters
from unfooled.purification.convolutional import learn_convolutional
from unfooled.purification.dictionaries import ista, learn_patches
from unfooled.purification.guard import Guarded, guard, is_differentiable
from unfooled.purification.semantic import SemanticPurifier, fit_purifier, load_purifier

__all__ = [
    "ClassFit",
    "Clusters",
    "DenoisingAutoencoder",
    "Guarded",
    "SemanticPurifier",
    "bit_depth",
    "fit_autoencoder",
    "fit_clusters",
    "fit_purifier",
    "guard",
    "identity",
    "is_differentiable",
    "ista",
    "jpeg",
    "learn_convolutional",
    "learn_patches",
    "load_purifier",
    "low_band",
    "median",
    "resized",
    "split",
    "total_variation",
]
