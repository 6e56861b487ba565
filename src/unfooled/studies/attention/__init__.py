"""Attention: is incomplete attention vulnerable, and does training that preserves it resist attacks?"""

from unfooled.studies.attention.own import OwnNetwork
from unfooled.studies.attention.scale import AttentionScale
from unfooled.studies.attention.study import run_attention

__all__ = ["AttentionScale", "OwnNetwork", "run_attention"]
