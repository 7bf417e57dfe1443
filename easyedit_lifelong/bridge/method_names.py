"""The names of EasyEdit's own methods in this package: ``EasyEdit/AlphaEdit``, or ``MEMIT`` if that is unique."""

from __future__ import annotations

from easyedit_lifelong.plugins import get_plugins

PREFIX = "EasyEdit/"


def easyedit_name(name: str) -> str:
    """Return a method's name in EasyEdit: the name without the prefix."""
    return name.removeprefix(PREFIX)


def easyedits_full_name(name: str) -> str:
    """Return the name with the prefix of one of EasyEdit's own methods, whatever methods are registered."""
    return PREFIX + easyedit_name(name)


def full_name(name: str) -> str:
    """Return the one full name of a method.

    Args:
        name: the name of a registered method, or of one of EasyEdit's own, with or without the prefix.

    Returns:
        The name itself if a method of that name is registered, else the name with the prefix.
    """
    return name if name in get_plugins().methods else easyedits_full_name(name)


def hparams_folders(name: str) -> list[str]:
    """Return the folders that may have the hyperparameter files of a method, relative to ``hparams``, in their order.

    Files of EasyEdit's own methods are in ``EasyEdit/NAME``, or in ``NAME`` if no registered method has that name.
    """
    if name in get_plugins().methods:
        return [name]
    own = easyedit_name(name)
    return [easyedits_full_name(own), *([] if own in get_plugins().methods else [own])]
