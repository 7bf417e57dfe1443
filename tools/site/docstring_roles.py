"""An extension of griffe that shows Sphinx's roles in docstrings as plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`~?\.?([^`]+)`")


class DocstringRoles(griffe.Extension):
    """Replaces ``:class:`Name``` in docstrings by the name as code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object when griffe has loaded it."""
        if obj.docstring is not None:
            obj.docstring.value = plain_roles(obj.docstring.value)


def plain_roles(docstring: str) -> str:
    """Return a docstring with the names that roles refer to, as code."""
    return _ROLE.sub(r"`\1`", docstring)
