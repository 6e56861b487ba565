"""Formats that data are stored in: archives, IDX files, image folders, packs, the user's own code, stored maps."""

from unfooled.data.formats.factory import from_arrays, from_callable, from_factory
from unfooled.data.formats.feature_sets import FeatureSet, load_features, save_features
from unfooled.data.formats.folders import folder
from unfooled.data.formats.idx import idx_file, idx_folder, read_idx
from unfooled.data.formats.maps import read_maps
from unfooled.data.formats.npz import npz

__all__ = [
    "FeatureSet",
    "folder",
    "from_arrays",
    "from_callable",
    "from_factory",
    "idx_file",
    "idx_folder",
    "load_features",
    "npz",
    "read_idx",
    "read_maps",
    "save_features",
]
