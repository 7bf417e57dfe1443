"""The console of all commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import console as rich_console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from easyedit_lifelong.reporting.terminal_text import visible


class Console(rich_console.Console):
    """A console of rich that shows texts as they are.

    Control characters are shown instead of being sent to the terminal. Brackets (``[INST]``) are not markup, and names
    between colons are not emoji. A style needs a :class:`rich.text.Text`.

    Args:
        **options: the options of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of text; control codes of rich itself are segments of their own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def can_show(console: rich_console.Console, text: str) -> bool:
    """Return whether a console's encoding has all characters of a text."""
    try:
        text.encode(console.encoding)
    except (UnicodeError, LookupError):
        return False
    return True
