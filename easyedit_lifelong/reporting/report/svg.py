"""Figures as files, and as SVG elements in a page, with selectable text and colours of the page's theme."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree  # nosec B405 # parses only what matplotlib has just written

from markupsafe import Markup
from matplotlib.figure import Figure

from easyedit_lifelong.reporting.report.style import THEME

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HREF = f"{{{_XLINK}}}href"
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML doesn't allow, not even escaped; names and values in a run's files can hold them."""
_DPI = 200


def svg_text(figure: Figure, *, transparent: bool = False) -> str:
    """Return a figure as SVG; equal figures give equal text. Characters that XML doesn't allow are replaced."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", buffer.getvalue())


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as SVG and PNG; return both files.

    Args:
        figure: the figure.
        stem: the path of the files without an ending.

    Raises:
        OSError: a file can't be written.
    """
    vector, picture = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    vector.write_text(svg_text(figure), encoding="utf-8")
    figure.savefig(picture, format="png", dpi=_DPI, metadata={"Software": None})
    return [vector, picture]


def inline(figure: Figure, prefix: str, description: str) -> Markup:
    """Return a figure as an SVG element for a page.

    Args:
        figure: the figure.
        prefix: prefix of the ids in the element, which must be unique in the page.
        description: the alternative text, for readers who can't see the figure.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg_text(figure, transparent=True))  # nosec B314 # matplotlib's
    for parent in list(root.iter()):
        for child in list(parent):
            # The figure's style sheet would apply to the whole page.
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, prefix)
    for name in ("width", "height"):
        del root.attrib[name]
    root.set("role", "img")
    root.set("aria-label", description)
    text = ElementTree.tostring(root, encoding="unicode")
    return Markup(text)  # nosec B704 # tostring has escaped all texts of the figure


def _adapt(element: ElementTree.Element, prefix: str) -> None:
    """Add the prefix to ids and references, and replace colours and fonts by those of the page."""
    if "id" in element.attrib:
        element.set("id", f"{prefix}-{element.attrib['id']}")
    if _HREF in element.attrib:
        element.set("href", f"#{prefix}-{element.attrib.pop(_HREF).removeprefix('#')}")
    for name, value in element.attrib.items():
        if name in ("style", "fill", "stroke", "clip-path"):
            value = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
            element.set(name, _COLOUR.sub(_themed, _without_family(value)))


def _themed(colour: re.Match[str]) -> str:
    """Return the custom property for a colour, or the colour itself."""
    name = THEME.get(colour[0])
    return f"var({name})" if name else colour[0]


def _without_family(style: str) -> str:
    """Replace the font family of a style by the page's."""
    declarations = [part.strip() for part in style.split(";") if not part.strip().startswith("font-family")]
    return "; ".join(re.sub(r"^font: (.*?px) .*", r"font: \1 var(--font)", part) for part in declarations)
