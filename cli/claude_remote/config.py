# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which server: from the environment, or from ~/.config/claude-remote/config.

```toml
[hosts.work]
host = "alice@build.example.org"      # as ssh takes it
port = 3000                           # the manager's, on the server
ssh_opts = ["-p", "2222"]
token_file = "~/manager.token"        # on the server
default = true
```
"""

from __future__ import annotations

import os

from .errors import USAGE, RemoteError
from .text import inert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

PORT = 3000
_KEYS = ("host", "port", "ssh_opts", "token_file", "default")


class Target:
    """A server. host: as ssh takes it. port: the manager's. ssh_opts: words for ssh. token_file: a path there."""

    def __init__(
        self, host: str, port: int = PORT, ssh_opts: Sequence[str] = (), token_file: str | None = None, name: str = ""
    ) -> None:
        self.host = _checked_host(host)
        self.port = _checked_port(port)
        self.ssh_opts = tuple(ssh_opts)
        self.token_file = token_file
        self.name = name or host


def path(environ: Mapping[str, str]) -> str:
    """Where the file of settings is, whether or not it is there."""
    base = environ.get("XDG_CONFIG_HOME", "")
    return os.path.join(base if base.startswith("/") else os.path.expanduser("~/.config"), "claude-remote", "config")


def chosen(name: str | None, environ: Mapping[str, str]) -> Target:
    """The server that a name means, or the one of the environment, or of the settings. Raises RemoteError (usage)."""
    known = _configured(environ)
    asked = name or environ.get("CLAUDE_REMOTE_HOST")
    if asked:
        return known[asked] if asked in known else _by_environ(asked, environ)
    if len(known) == 1:
        return next(iter(known.values()))
    default = [each for each in known.values() if each.name in _defaults(environ)]
    if len(default) == 1:
        return default[0]
    if known:
        why = "several hosts are the default" if default else "none of the hosts is the default"
        names = ", ".join(inert(each) for each in known)
        raise RemoteError(f"It is not clear which server is meant: {why}.", f"Give --host, one of: {names}.", USAGE)
    raise RemoteError(
        "No server is named.",
        f"Set CLAUDE_REMOTE_HOST=user@server, give --host, or write {inert(path(environ))}.",
        USAGE,
    )


def everyone(environ: Mapping[str, str]) -> list[Target]:
    """All servers of the settings; the environment's where there are none. Raises RemoteError (usage)."""
    return list(_configured(environ).values()) or [chosen(None, environ)]


def _by_environ(host: str, environ: Mapping[str, str]) -> Target:
    port, options = environ.get("CLAUDE_REMOTE_PORT", ""), environ.get("CLAUDE_REMOTE_SSH_OPTS", "")
    if port and not (port.isascii() and port.isdigit()):
        raise RemoteError(f"CLAUDE_REMOTE_PORT is {inert(port)}, which is no port.", "Give a number, as 3000.", USAGE)
    return Target(host, int(port or PORT), _split(options) if options else ())


def _split(options: str) -> list[str]:
    if not any(each in options for each in "'\"\\"):
        return options.split()
    import shlex

    try:
        return shlex.split(options)
    except ValueError as error:
        hint = "Quote it as for a shell."
        raise RemoteError(f"CLAUDE_REMOTE_SSH_OPTS cannot be split into words: {error}.", hint, USAGE) from None


def _configured(environ: Mapping[str, str]) -> dict[str, Target]:
    return {name: _target(name, entry, environ) for name, entry in _hosts(environ).items()}


def _defaults(environ: Mapping[str, str]) -> list[str]:
    return [name for name, entry in _hosts(environ).items() if entry.get("default")]


def _hosts(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    file = path(environ)
    if not os.path.exists(file):
        return {}
    import tomllib

    try:
        with open(file, "rb") as stream:
            content = tomllib.load(stream)
    except (OSError, ValueError) as error:
        raise RemoteError(f"{inert(file)} cannot be read: {inert(error)}.", "Mend it.", USAGE) from None
    hosts = content.pop("hosts", {})
    if content or not isinstance(hosts, dict) or not all(isinstance(entry, dict) for entry in hosts.values()):
        raise RemoteError(f"{inert(file)} has something else than tables [hosts.NAME].", "Take it out.", USAGE)
    return hosts


def _target(name: str, entry: Mapping[str, Any], environ: Mapping[str, str]) -> Target:
    where = f"{inert(path(environ))}: hosts.{inert(name)}"
    wrong = next((key for key in entry if key not in _KEYS), None)
    if wrong is not None:
        raise RemoteError(f"{where} has no setting {inert(wrong)}.", f"It has {', '.join(_KEYS)}.", USAGE)
    options, token, default = entry.get("ssh_opts", []), entry.get("token_file"), entry.get("default", False)
    if not isinstance(entry.get("host"), str):
        raise RemoteError(f"{where} names no host.", 'Write host = "user@server".', USAGE)
    if not isinstance(options, list) or not all(isinstance(word, str) for word in options):
        raise RemoteError(f"{where}: ssh_opts is no list of words.", 'Write ssh_opts = ["-p", "2222"].', USAGE)
    if not isinstance(token, str | None) or (token is not None and not token.startswith(("/", "~/"))):
        raise RemoteError(f"{where}: token_file is no path.", "It begins with / or ~/, on the server.", USAGE)
    if not isinstance(default, bool):
        raise RemoteError(f"{where}: default is neither true nor false.", "Write default = true.", USAGE)
    return Target(entry["host"], entry.get("port", PORT), options, token, name)


def _checked_host(host: str) -> str:
    """Not one that ssh would take for an option, or a terminal for more than text."""
    if not host or host.startswith("-") or not host.isprintable() or " " in host:
        raise RemoteError(f"{inert(host)!r} is no host.", "Give one as ssh takes it: user@server.", USAGE)
    return host


def _checked_port(port: object) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 1 << 16:
        raise RemoteError(f"{inert(port)} is no port.", "Give a number from 1 to 65535.", USAGE)
    return port
