"""Questions about functions."""

from unfooled.compat.lime.utils.generic_utils import has_arg

__all__ = ["has_arg"]
