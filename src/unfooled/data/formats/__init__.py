"""Formats that data are stored in: archives, IDX files, image folders, packs, tables, texts, stored maps, own code."""

from unfooled.data.formats.factory import from_arrays, from_callable, from_factory
from unfooled.data.formats.feature_sets import FeatureSet, load_features, save_features
from unfooled.data.formats.folders import folder
from unfooled.data.formats.idx import idx_file, idx_folder, read_idx
from unfooled.data.formats.maps import read_maps
from unfooled.data.formats.npz import npz
from unfooled.data.formats.table import Table, read_table
from unfooled.data.formats.text import read_text, read_texts

__all__ = [
    "FeatureSet",
    "Table",
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
    "read_table",
    "read_text",
    "read_texts",
    "save_features",
]
