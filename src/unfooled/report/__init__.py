"""Reports: one self-contained HTML page from the run folder of an audit, or from several."""

from unfooled.report.page import render, render_beside

__all__ = ["render", "render_beside"]
