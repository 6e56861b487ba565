"""Measures of attention that the study reports, by their names in records and tables."""

from __future__ import annotations

from functools import partial

from unfooled.explanations.attention import attention

PAPER = "Wu et al. 2018, arXiv:1811.09831"
MOVED_BELOW_IOU = 0.6
"""IoU of the cells above average, before and after, below which attention counts as moved (published: .595)."""
MOVES = {
    "js": "JS divergence", "centroid_shift": "shift of the centre", "parted": "1 - IoU of the top quarter",
    "entropy": "entropy", "spread": "spread", "components": "parts",
}  # fmt: skip
"""Measures of the movement of attention: deviation, then scatter."""
PLACES = {"complete": "completeness", "coverage": "coverage", "iou_matched": "IoU at matched area",
          "part_recall": "least recall of a part"}  # fmt: skip
"""Measures of completeness: the first always, the others where the object is known."""
FAITHFUL = ("deletion", "insertion", "deletion, elsewhere", "insertion, elsewhere")
"""Areas under the deletion and insertion curves; elsewhere: pixels in the order of the map rolled by half."""
ATTACKED_ATTENTION = partial(attention, detach_weights=True)
"""Attention as attacks differentiate it: its weights, which have no gradient on ReLU networks, are constants."""
