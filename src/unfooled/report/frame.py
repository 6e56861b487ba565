"""Frame that all pages share: templates, style, the one script, and records embedded as JSON.

Everything in the records is untrusted text: it is escaped by the template engine, and the page's own content security
policy lets nothing run but the one script that the page brings.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfooled._version import __version__
from unfooled.core.errors import BadInput, printable
from unfooled.drawing.theme import css_variables

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
PNG = b"\x89PNG\r\n\x1a\n"


@cache
def environment() -> Environment:
    """Return the template engine, with the functions that templates call."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from unfooled.core.threat_text import eps_text
    from unfooled.drawing.plots import colour_of, marker_of
    from unfooled.report import trust, words
    from unfooled.report.compiled import CompiledTemplates
    from unfooled.report.sections import attention, guards, nearness, reasons

    engine = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=CompiledTemplates(__file__),
    )
    engine.globals |= {
        "w": words,
        "trust": trust,
        "reasons": reasons,
        "attention": attention,
        "near": nearness,
        "guards": guards,
    }
    engine.filters |= {"eps": eps_text, "colour": colour_of, "marker": marker_of}
    return engine


def _visible(value: Any) -> Any:
    """Return a value with its control characters made visible; markup of ours stays as it is."""
    return printable(value) if type(value) is str else value


def fill(template: str, records: str, **context: Any) -> str:
    """Return a page as text.

    Args:
        template: Name of a template that extends `frame.html.j2`.
        records: JSON to embed.
        context: Values for the template, title included.
    """
    from markupsafe import Markup

    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    # Our own files, not the user's: the only text that is not escaped, with the records, which are made safe here.
    trusted = {
        "style": Markup(css_variables() + (TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "records": Markup(safe_in_script(records)),
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment().get_template(template).render(version=__version__, **context, **trusted)


def safe_in_script(text: str) -> str:
    """Return JSON in which no <, > or & is left, so that it cannot end a script element."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def png_element(picture: dict[str, Any]) -> dict[str, str]:
    """Return a record's PNG as an image element: a data address, a title and a caption.

    Raises:
        BadInput: it is no PNG.
    """
    try:
        data = base64.b64decode(picture["png"], validate=True)
    except (KeyError, TypeError, binascii.Error) as e:
        raise BadInput(f"a picture of the study cannot be read: {e}; run the study again") from e
    if not data.startswith(PNG):
        raise BadInput(f"the picture {picture.get('title', '')!r} is no PNG; run the study again")
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"src": source, "title": str(picture.get("title", "")), "caption": str(picture.get("caption", ""))}
