"""Parse JSON and YAML from files that may hold anything: whatever is wrong with a text is a ``ValueError``."""

from __future__ import annotations

import json
import logging
from typing import Any

import yaml

LOG = logging.getLogger(__name__)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text isn't valid JSON, is nested too deeply, or holds a number with too many digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str, name: object = "the YAML text") -> Any:
    """Return the value of a YAML text. Log a warning for a key that a mapping has twice: the last value counts.

    Args:
        text: the text.
        name: its file, for the warning.

    Raises:
        ValueError: the text isn't valid YAML, is nested too deeply, or holds a value that doesn't fit its tag, such as
            ``2001-99-99`` or ``!!bool foo``.
    """
    try:
        loader = _Loader(text)
        loader.name = str(name)
        return loader.get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:  # from PyYAML's constructors
        raise ValueError(f"a value doesn't fit its tag ({type(error).__name__}: {error})") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reports keys that are given twice, and refuses NUL characters."""

    def construct_scalar(self, node: Any) -> Any:
        """Return the text of a scalar.

        Raises:
            ValueError: it holds a NUL character, which no name and no path can have.
        """
        text = super().construct_scalar(node)
        if isinstance(text, str) and "\0" in text:
            raise ValueError(f"line {node.start_mark.line + 1}: a text holds a NUL character")
        return text

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping."""
        lines: dict[str, list[int]] = {}
        for key, _ in getattr(node, "value", []):
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                lines.setdefault(key.value, []).append(key.start_mark.line + 1)
        for name, (*earlier, last) in lines.items():
            if earlier:
                message = "%s, line %d: %r is given more than once; the last value counts"
                LOG.warning(message, self.name, last, name)
        return super().construct_mapping(node, deep)
