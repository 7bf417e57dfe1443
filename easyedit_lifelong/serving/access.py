"""Who may use the server: API keys, edit keys, and the names under which a server without keys answers."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers

from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.serving.api_errors import ApiError

ANONYMOUS = "local"
"""The name in the journal of a request to a server without keys."""


@dataclass(frozen=True)
class Access:
    """The keys of a server.

    Attributes:
        api_keys: keys that may ask, by their names.
        edit_keys: keys that may also edit, by their names. Without any, every key that may ask may also edit.
    """

    api_keys: Mapping[str, str] = field(default_factory=dict)
    edit_keys: Mapping[str, str] = field(default_factory=dict)

    def who_asks(self, headers: Headers) -> str:
        """Return the name of the key of a request.

        Raises:
            ApiError: the request needs a key and has none, or one that does not exist.
        """
        if not self.api_keys and not self.edit_keys:
            return ANONYMOUS
        of_edits, of_answers = _name_of(headers, self.edit_keys), _name_of(headers, self.api_keys)
        name = of_edits or of_answers
        if name is None and self.api_keys:
            raise ApiError(
                401, "this server needs an API key: send the header 'Authorization: Bearer KEY'", code="invalid_api_key"
            )
        return name or ANONYMOUS

    def who_edits(self, headers: Headers) -> str:
        """Return the name of the key of a request that changes edits.

        Raises:
            ApiError: the request needs a key and has none, or one that may not edit.
        """
        asks = self.who_asks(headers)
        if not self.edit_keys:
            return asks
        name = _name_of(headers, self.edit_keys)
        if name is None:
            raise ApiError(403, "this key can't change edits: send an edit key", code="no_edit_key")
        return name


def check_reachable(host: str, access: Access) -> None:
    """Check that a server that others can reach has keys.

    Raises:
        HyperParameterError: the address is not this machine's own, and a key is missing.
    """
    if not is_loopback(host) and not (access.api_keys and access.edit_keys):
        raise HyperParameterError(
            f"--host {host}: others can reach this address, so the server needs --api-key and --edit-key (or the "
            "environment variables EASYEDIT_LIFELONG_API_KEY and EASYEDIT_LIFELONG_EDIT_KEY)"
        )


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(header: str) -> str:
    """Return the host of a ``Host`` header, without the port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0]


def parse_keys(texts: list[str], default_name: str) -> dict[str, str]:
    """Return keys by their names.

    Args:
        texts: ``KEY`` or ``NAME=KEY``.
        default_name: the name of a key without one.

    Raises:
        HyperParameterError: a key is empty, has ``=`` but no name, or can't be sent in a header; or two keys have the
            same name.
    """
    keys: dict[str, str] = {}
    for text in texts:
        name, equals, key = text.partition("=")
        if not equals:
            name, key = default_name, text
        if not name or not key.strip("="):  # a key in base64 can end with "=="; it would be taken for a name
            raise HyperParameterError(
                f"the {default_name} key is empty, or contains '=' and has no name. Give it as NAME=KEY."
            )
        if not key.isascii() or any(character.isspace() for character in key):
            raise HyperParameterError(f"the key of {name!r} must be ASCII text without spaces")
        if name in keys:
            raise HyperParameterError(f"two keys are called {name!r}; give them as NAME=KEY")
        keys[name] = key
    return keys


def _name_of(headers: Headers, keys: Mapping[str, str]) -> str | None:
    """Return the name of the key of a request; None if it has no key of these."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    found = None
    for name, key in keys.items():  # all of them, so that the time does not tell how many were compared
        if hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode()):
            found = name
    return found
