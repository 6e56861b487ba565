"""Other packages' interfaces, answered by this one, so that their users can switch by changing an import."""

from unfooled.compat import lime

__all__ = ["lime"]
