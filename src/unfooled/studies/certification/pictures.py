"""Pictures of the study of certification."""

from __future__ import annotations

from unfooled.core.threat_text import eps_text
from unfooled.drawing.figures import COLOURS, Picture, add_legend, as_picture, line_heights, name_lines, new_figure
from unfooled.drawing.figures import mark_interval as mark
from unfooled.studies.certification.figures import Ends
from unfooled.studies.certification.units import Results


def both_ends(results: Results, eps: float) -> Picture:
    """Draw each network's robust accuracy from proven to attacked at one radius."""
    ends = Ends.of(results.judged, eps)
    figure, axes = new_figure(1, 1, 6.4, 0.34 * len(ends.networks) + 1.1)
    axis = axes[0, 0]
    for k, (y, name) in enumerate(zip(line_heights(len(ends.networks)), ends.networks, strict=True)):
        least, most = ends.mean(name, "proven"), ends.mean(name, "resists")
        axis.plot([least.value, most.value], [y, y], color="0.75", lw=5, solid_capstyle="butt")
        mark(axis, y, least, COLOURS[0], label="proven" if k == 0 else None)
        mark(axis, y, most, COLOURS[1], "s", label="not fooled" if k == 0 else None)
    name_lines(axis, ends.networks)
    axis.set_xlim(-0.02, 1.02)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("robust accuracy", fontsize=8)
    add_legend(axis, loc="best")
    caption = "Shares of the test images with 95 % intervals. The grey part is open: neither proven nor fooled."
    return as_picture(figure, f"{results.task.source}, linf:{eps_text(eps)}: between proven and attacked", caption)
