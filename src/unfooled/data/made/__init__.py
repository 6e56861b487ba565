"""Generated data, which need no files: digits, digits on a canvas, rendered shapes."""

from unfooled.data.made.canvas import Canvas, digits_canvas, load_digits_canvas
from unfooled.data.made.digits import digits
from unfooled.data.made.shapes import Shapes, Twin, load_shapes, shapes

__all__ = [
    "Canvas",
    "Shapes",
    "Twin",
    "digits",
    "digits_canvas",
    "load_digits_canvas",
    "load_shapes",
    "shapes",
]
