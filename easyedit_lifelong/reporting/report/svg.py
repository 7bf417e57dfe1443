"""Figures as files, and as part of a page: text as text, colours that follow the page's theme, ids of their own."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.figure import Figure

from easyedit_lifelong.reporting.report.style import THEME

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HREF = f"{{{_XLINK}}}href"
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DOTS = 200


def svg_text(figure: Figure, *, transparent: bool = False) -> str:
    """Return a figure as the text of an SVG file; the same figure gives the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as SVG and PNG; return both files.

    Raises:
        OSError: they can't be written.
    """
    vector, picture = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    vector.write_text(svg_text(figure), encoding="utf-8")
    figure.savefig(picture, format="png", dpi=_DOTS, metadata={"Software": None})
    return [vector, picture]


def inline(figure: Figure, prefix: str, description: str) -> Markup:
    """Return a figure as an element of a page.

    Args:
        figure: the figure.
        prefix: what its ids begin with; several figures of one page must not share ids.
        description: what it shows, for those who can't see it.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg_text(figure, transparent=True))
    for parent in list(root.iter()):
        for child in list(parent):
            # The style sheet among them would hold for the whole page.
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, prefix)
    for name in ("width", "height"):
        del root.attrib[name]
    root.set("role", "img")
    root.set("aria-label", description)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # made here, and what text there is in it is escaped


def _adapt(element: ElementTree.Element, prefix: str) -> None:
    if "id" in element.attrib:
        element.set("id", f"{prefix}-{element.attrib['id']}")
    if _HREF in element.attrib:
        element.set("href", f"#{prefix}-{element.attrib.pop(_HREF).removeprefix('#')}")
    for name, value in element.attrib.items():
        if name in ("style", "fill", "stroke", "clip-path"):
            value = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
            element.set(name, _COLOUR.sub(_themed, _without_family(value)))


def _themed(colour: re.Match[str]) -> str:
    name = THEME.get(colour[0])
    return f"var({name})" if name else colour[0]


def _without_family(style: str) -> str:
    """Leave the typeface to the page."""
    kept = [part.strip() for part in style.split(";") if not part.strip().startswith("font-family")]
    return "; ".join(re.sub(r"^font: (.*?px) .*", r"font: \1 var(--font)", part) for part in kept)
