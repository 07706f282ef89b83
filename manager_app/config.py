# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the manager is told by its environment, checked before anything is opened."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import secrets
import shlex
from collections.abc import Mapping

from claude_sandbox import files
from claude_sandbox.errors import SandboxError, shown
from claude_sandbox.host import Host

_LISTEN_RULE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})\Z")
_HOST_RULE = re.compile(r"[A-Za-z0-9._-]{1,253}\Z|\[[0-9A-Fa-f:.]+\]\Z")
_TOKEN_RULE = re.compile(r"[\x21-\x7e]{16,512}\Z")
_TOKEN_FILE_LIMIT = 1024
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# Where `make static` puts what comes from npm, in a clone and in a wheel.
_STATIC = os.path.join(os.path.dirname(__file__), "static", "vendor")


@dataclasses.dataclass(frozen=True)
class Config:
    """How the manager runs.

    host, port: where it listens; an IPv6 address is in brackets. hosts: the names by which browsers may call it.
    token: what callers have to show; None where everyone on this host's loopback who is the same account may call.
    static_dir: the folder of the libraries that pages load.
    """

    host: str
    port: int
    state_dir: str
    static_dir: str
    token: str | None
    hosts: frozenset[str]

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"


def from_environ(environ: Mapping[str, str]) -> Config:
    """The configuration that the variables MANAGER_* give.

    Raises SandboxError where one of them cannot be, and where anyone in the network could call without a token.
    """
    listen = environ.get("MANAGER_LISTEN") or "127.0.0.1:3000"
    match = _LISTEN_RULE.match(listen)
    if match is None or not 0 < int(match[2]) < 65536:
        raise SandboxError(f"MANAGER_LISTEN is {shown(listen)}.", "Give ADDRESS:PORT, as 127.0.0.1:3000.")
    host, port = match[1], int(match[2])
    path = environ.get("MANAGER_TOKEN_FILE")
    token = _token(path, environ.get("CREDENTIALS_DIRECTORY")) if path else None
    if token is None and not _is_loopback(host):
        raise SandboxError(
            f"MANAGER_LISTEN is {shown(listen)}, which others in the network reach, and there is no token.",
            "Set MANAGER_TOKEN_FILE (claude-sandbox-manager new-token FILE makes one), or listen on 127.0.0.1.",
        )
    return Config(
        host,
        port,
        os.path.abspath(environ.get("MANAGER_STATE_DIR") or Host.this().state_dir()),
        environ.get("MANAGER_STATIC_DIR") or _STATIC,
        token,
        _hosts(host, environ.get("MANAGER_HOSTS", "")),
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def new_token(path: str) -> None:
    """Make a file with a new token in it, which only this account may read.

    Raises SandboxError where there is such a file already, and where none can be made.
    """
    path = os.path.abspath(path)
    draft = f"{path}.{secrets.token_hex(6)}.tmp"
    try:
        files.create(draft, f"{secrets.token_urlsafe(32)}\n".encode())
        try:
            # Unlike a rename this replaces nothing, and unlike writing to it nobody finds half of it there.
            os.link(draft, path, follow_symlinks=False)
        finally:
            os.unlink(draft)
        files.sync_folder(os.path.dirname(path))
    except FileExistsError:
        raise SandboxError(
            f"{shown(path)} is there already, and is not overwritten.", "Remove it first to log everybody out."
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SandboxError(f"{shown(path)} cannot be made: {reason}.", "Name a file in a folder of yours.") from None


def _token(path: str, credentials: str | None) -> str:
    """The token in a file. credentials: the folder that systemd has made for this service alone, if it has."""
    make = f"Make one: claude-sandbox-manager new-token {_quoted(path)}"
    try:
        file = files.open_regular(os.path.abspath(path))
    except ValueError:
        file = None
    if file is None:
        raise SandboxError(f"MANAGER_TOKEN_FILE {shown(path)} cannot be read, or is no plain file.", make)
    with file:
        status = os.fstat(file.fileno())
        text = file.read(_TOKEN_FILE_LIMIT + 1).decode("ascii", "replace").strip()
    # systemd lets the service's account read it by an access list, which looks like a right of the group.
    if not credentials or os.path.dirname(os.path.abspath(path)) != os.path.abspath(credentials):
        _check_rights(path, status)
    if not _TOKEN_RULE.match(text):
        raise SandboxError(
            f"MANAGER_TOKEN_FILE {shown(path)} holds no token: 16 to 512 plain characters on one line.", make
        )
    return text


def _check_rights(path: str, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise SandboxError(
            f"MANAGER_TOKEN_FILE {shown(path)} is another account's.", "Make one of this account's, or of root's."
        )
    if status.st_mode & 0o077:
        raise SandboxError(f"Others may read MANAGER_TOKEN_FILE {shown(path)}.", f"chmod 600 {_quoted(path)}")


def _quoted(path: str) -> str:
    """A path as a part of a command; what would not be one line is left to whoever reads it."""
    return shlex.quote(path) if path.isprintable() else "FILE"


def _hosts(host: str, more: str) -> frozenset[str]:
    named = [each for each in re.split(r"[\s,]+", more) if each]
    wrong = next((each for each in named if _host(each) is None), None)
    if wrong is not None:
        raise SandboxError(f"MANAGER_HOSTS has {shown(wrong)} in it.", "Give names or addresses, without ports.")
    # An address for all interfaces is no name that anybody calls.
    own = [] if _is_any(host) else [host]
    return frozenset(found for each in (*_LOOPBACK, *own, *named) if (found := _host(each)) is not None)


def _host(text: str) -> str | None:
    """A name or an address as browsers write it; None for what is neither."""
    if not _HOST_RULE.match(text):
        return None
    if not text.startswith("["):
        return text.lower().removesuffix(".") or None
    try:
        return f"[{ipaddress.IPv6Address(text[1:-1]).compressed}]"
    except ValueError:
        return None


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
