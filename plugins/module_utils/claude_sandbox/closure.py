# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the flake says of the programs that it made for the inside of sandboxes: paths of Nix's store, as JSON.

Pure. Whoever may use a Nix daemon can write one, so that it is as hostile as the account that names it.
"""

from __future__ import annotations

import dataclasses
import json
import os.path
import re
from collections.abc import Mapping
from typing import Any

from .errors import SandboxError, shown

STORE = "/nix/store"
LIMIT = 1 << 20  # bytes
_VERSION = 1
_MOST = 1000  # entries of each kind
_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# Who somebody is inside and where it runs is not the programs' to say.
_NOT_OF_PROGRAMS = frozenset(
    ("group", "gshadow", "hostname", "hosts", "localtime", "machine-id", "passwd", "resolv.conf", "shadow", "timezone")
)
_LINK_TOPS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin", "usr")


@dataclasses.dataclass(frozen=True)
class Closure:
    """Programs and what they need. links: path inside → where it points to. etc: name in /etc → what stands there."""

    path: tuple[str, ...]
    shell: str
    links: Mapping[str, str]
    etc: Mapping[str, str]
    env: Mapping[str, str]
    guest: str | None


def parse(content: bytes, source: str) -> Closure:
    """The description of a toolchain. source: where it was read, for messages. Raises SandboxError where it is none."""
    try:
        if len(content) > LIMIT:
            raise ValueError(f"longer than {LIMIT} bytes")
        found = json.loads(content)
        if not isinstance(found, dict) or found.get("version") != _VERSION:
            raise ValueError(f"not of version {_VERSION}")
        return _parsed(found)
    except RecursionError:
        trouble = "nested too deeply"
    except (KeyError, TypeError, ValueError) as error:
        trouble = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    raise SandboxError(
        f"{shown(source)} describes no toolchain: {trouble}.", "Build it with the flake of this release."
    )


def _parsed(content: Mapping[str, Any]) -> Closure:
    path, guest = content["path"], content.get("guest")
    if not isinstance(path, list) or not path or len(path) > _MOST:
        raise ValueError("path is no list of folders")
    return Closure(
        path=tuple(_stored(each) for each in path),
        shell=_stored(content["shell"]),
        links={_link(name): _stored(value) for name, value in _mapping(content, "links").items()},
        etc={_entry(name): _stored(value) for name, value in _mapping(content, "etc").items()},
        env={_variable(name): _text(value) for name, value in _mapping(content, "environment").items()},
        guest=None if guest is None else _stored(guest),
    )


def _mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content[name]
    if not isinstance(found, dict) or len(found) > _MOST:
        raise ValueError(f"{name} is no mapping")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or "\n" in value:
        raise ValueError(f"{shown(value)} is no text of one line")
    return value


def _stored(value: Any) -> str:
    """A path in the store. PATH is made of some of them, which a colon would part."""
    path = _text(value)
    if os.path.normpath(path) != path or not path.startswith(f"{STORE}/") or ":" in path:
        raise ValueError(f"{shown(path)} is no path in {STORE}")
    return path


def _link(path: str) -> str:
    parts = path.split("/")
    if not path.startswith("/") or os.path.normpath(path) != path or parts[1] not in _LINK_TOPS or len(parts) < 3:
        raise ValueError(f"nothing can be linked at {shown(path)}")
    return path


def _entry(name: str) -> str:
    if not _ENTRY.match(name) or name in _NOT_OF_PROGRAMS:
        raise ValueError(f"{shown(name)} is no file of programs in /etc")
    return name


def _variable(name: str) -> str:
    if not _VARIABLE.match(name):
        raise ValueError(f"{shown(name)} is no name of a variable")
    return name
