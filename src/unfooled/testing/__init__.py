"""Contract checks for your own methods: `check_attack`, `check_explanation`, `check_distance`, `check_loss`.

Plain functions, without a test framework. Each builds small models and data from seeds, runs the method on them and
raises AssertionError with one sentence that names the broken promise and the setting. The library's own methods pass
the same checks.

Example:
    >>> from unfooled.testing import check_distance
    >>> from unfooled.distances import linf
    >>> check_distance(linf, metric=True)
"""

from unfooled.testing.attacks import check_attack
from unfooled.testing.distances import check_distance
from unfooled.testing.explanations import check_explanation
from unfooled.testing.losses import check_loss

__all__ = ["check_attack", "check_distance", "check_explanation", "check_loss"]
