"""The command ``new-method``: make a plugin with an editing method, as a beginning for a new method.

The folder ``method-template`` beside this module is such a plugin, of a method named Template-Edit. The command copies
it and replaces the name.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from easyedit_lifelong.atomic import atomic_folder
from easyedit_lifelong.edits.edits_folder import check_empty
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.runnable_commands import runnable
from easyedit_lifelong.reporting.terminal import Console

_TEMPLATE = Path(__file__).parent / "method-template"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*")


@dataclass(frozen=True)
class MethodNames:
    """The names in a plugin, from the name of its method.

    Attributes:
        method: the method's name, as in ``alg_name``: ``My-Edit``.
    """

    method: str

    @property
    def class_prefix(self) -> str:
        """What the names of its classes begin with: ``MyEdit``."""
        return "".join(part[0].upper() + part[1:] for part in self.method.split("-"))

    @property
    def word(self) -> str:
        """What stands for it in the names of functions, modules and the distribution: ``myedit``."""
        return self.class_prefix.lower()

    @property
    def package(self) -> str:
        """The name of its package."""
        return f"easyedit_lifelong_{self.word}"

    @property
    def distribution(self) -> str:
        """The name under which pip installs it, and of its folder."""
        return f"easyedit-lifelong-{self.word}"

    def fill_in(self, text: str) -> str:
        """Replace the names of the template's method in a text."""
        # One pass, since a new name can contain one of the template's: MyTemplateEdit.
        names = {"Template-Edit": self.method, "TemplateEdit": self.class_prefix, "templateedit": self.word}
        return re.sub("|".join(names), lambda match: names[match[0]], text)


def run(arguments: argparse.Namespace) -> int:
    """Write the plugin, and print what to do next.

    Raises:
        RunError: the name cannot be used, or the folder is not empty.
    """
    names = MethodNames(arguments.name)
    check_name(names)
    out = check_empty(arguments.out or Path(names.distribution))
    with atomic_folder(out) as folder:
        write_plugin(names, folder)
    for line in (
        f"{out}: a plugin with the method {names.method}. It works as it is; README.md says what to change.",
        "Install it and run its tests:",
        f"  python -m pip install --editable {shlex.quote(f'{out}[dev]')}",
        f"  python -m pytest {shlex.quote(str(out))}",
    ):
        print_line(Console(), runnable(line))
    return 0


def check_name(names: MethodNames) -> None:
    """Check that a new method can have a name.

    Raises:
        RunError: it has other characters, or a method or an installed package has it already.
    """
    if not _NAME.fullmatch(names.method):
        raise RunError(
            f"{names.method!r} can't be the name of a method: a name begins with a letter and has letters, digits and "
            "single hyphens, such as MyEdit or My-Edit."
        )
    methods = get_plugins().methods
    for name in methods.names():
        if name.lower() == names.method.lower():
            raise RunError(
                f"{names.method}: {methods.origin(name)} has registered a method {name}. Choose another name."
            )
    if importlib.util.find_spec(names.package) is not None:
        raise RunError(f"{names.method}: a package {names.package} is installed. Choose another name.")


def write_plugin(names: MethodNames, folder: Path) -> None:
    """Write the plugin of a method.

    Args:
        names: its names.
        folder: an existing, empty folder.
    """
    for source in sorted(_TEMPLATE.rglob("*")):
        if source.is_dir() or "__pycache__" in source.parts:
            continue
        target = folder / names.fill_in(source.relative_to(_TEMPLATE).as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(names.fill_in(source.read_text(encoding="utf-8")), encoding="utf-8")
