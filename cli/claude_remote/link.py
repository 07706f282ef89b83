# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The connection to a server, as commands use it: a socket to the manager, and the words that run a program there.

All commands to a server share one ssh (a ControlMaster), which stays for ten minutes after the last. It forwards a
socket of ours to the manager's port, so that a command which finds it open starts no ssh at all; `ssh` makes it.
"""

from __future__ import annotations

import json
import os
import socket

from .config import Target
from .errors import LostError, RemoteError
from .runtime import Files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SECONDS = 30.0  # for each piece of an answer
_CONNECT_SECONDS = 5.0


class Facts:
    """What was found out of the server when the connection was made. login, home: of the account that logs in.

    forwards: whether ssh forwards our socket. token: the manager's, where one was found. master: tells this ssh from
    others.
    """

    def __init__(self, login: str, home: str, token: str | None, forwards: bool, master: list[int]) -> None:
        self.login = login
        self.home = home
        self.token = token
        self.forwards = forwards
        self.master = master


class Link:
    """The connection to one server. Nothing is opened before it is needed."""

    def __init__(self, target: Target, environ: Mapping[str, str]) -> None:
        self.target = target
        self.files = Files(target, environ)
        self.is_new = False  # whether this command has made it
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        """Of the connection, which is made where it is not there. Raises RemoteError."""
        if self._facts is None:
            self._facts = self._kept()
        return self._facts or self.open()

    def open(self) -> Facts:
        """Make it where it is not there any more. Raises RemoteError."""
        from . import ssh

        self.is_new = True
        self._facts = ssh.opened(self.target, self.files)
        return self._facts

    def forget_token(self) -> None:
        """Have the token looked for again: the manager may have another by now. Raises RemoteError."""
        from . import ssh

        facts = self.facts
        self._facts = ssh.found_out(self.target, self.files, facts.forwards)

    def connect(self, seconds: float = SECONDS) -> socket.socket:
        """A socket to the manager; seconds: its timeout. Raises RemoteError."""
        if not self.facts.forwards:
            return self._piped(seconds)
        try:
            return self._forwarded(seconds)
        except OSError:
            self.open()
        if not self.facts.forwards:
            return self._piped(seconds)
        try:
            return self._forwarded(seconds)
        except OSError as error:
            raise LostError(f"ssh does not take connections: {error.strerror}.", "Try again.") from None

    def run_argv(self, command: str, *options: str) -> list[str]:
        """The words that run a shell command on the server, over this connection."""
        from . import ssh

        _ = self.facts
        return ssh.argv(self.target, self.files, *options, command=command)

    def _forwarded(self, seconds: float) -> socket.socket:
        end = socket.socket(socket.AF_UNIX)
        try:
            end.settimeout(_CONNECT_SECONDS)
            end.connect(self.files.http)
        except OSError:
            end.close()
            raise
        end.settimeout(seconds)
        return end

    def _piped(self, seconds: float) -> socket.socket:
        from . import ssh

        end = ssh.piped(self.target, self.files)
        end.settimeout(seconds)
        return end

    def _kept(self) -> Facts | None:
        """What an earlier command found out, if the ssh of then is there still."""
        try:
            with open(self.files.facts, "rb") as file:
                content: dict[str, Any] = json.load(file)
            facts = Facts(**content)
            return facts if facts.master == mark(self.files.control) else None
        except (OSError, ValueError, TypeError):
            return None


def mark(path: str) -> list[int]:
    """What tells a socket from another one that was at the same path before. Raises OSError."""
    found = os.stat(path)
    return [found.st_ino, found.st_ctime_ns]


def refused(link: Link) -> RemoteError:
    """Why connections to the manager are closed as soon as they are opened."""
    from . import ssh

    return ssh.why_refused(link.target, link.files)
