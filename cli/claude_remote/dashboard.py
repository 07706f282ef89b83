# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command ui: the dashboard of a server in the browser here, for as long as it runs."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

from . import ssh
from .errors import FAILED, OK, USAGE, LostError, RemoteError
from .looking import manager_of
from .manager import Manager
from .text import out, say

_PATH_RULE = re.compile(r"https?://[^/]+(/login/[A-Za-z0-9_-]{16,128})")
_LOOK_SECONDS = 5.0  # between two looks whether the server is there
_PROBE_SECONDS = 8.0
_LONGEST_WAIT = 30.0


def ui(options: Any) -> int:
    """Open a tunnel and the browser, and keep the tunnel until Ctrl-C."""
    if options.port is not None and not 0 < options.port < 1 << 16:
        raise RemoteError(f"{options.port} is no port.", "Give a number from 1 to 65535.", USAGE)
    manager = manager_of(options)
    manager.check()
    port = options.port or _free_port()
    link = manager.link
    ssh.forward(link.target, link.files, port)
    try:
        url = f"http://127.0.0.1:{port}{_login_path(manager)}"
        out(url)
        if not options.no_browser:
            _open(url)
        say(f"{link.target.host}'s dashboard is at http://127.0.0.1:{port}/ until Ctrl-C.")
        _keep(manager, port)
    except KeyboardInterrupt:
        say("The tunnel is closed.")
    finally:
        ssh.unforward(link.target, link.files, port)
    return OK


def _login_path(manager: Manager) -> str:
    """The path that logs the browser in, once; the root where no login is needed. Only the path is the server's."""
    try:
        answer = manager.call("POST", "/api/login-links")
    except RemoteError as error:
        if error.status == 409:
            return "/"
        raise
    try:
        found = _PATH_RULE.fullmatch(str(json.loads(answer.body)["url"]))
    except (ValueError, KeyError, TypeError):
        found = None
    if found is None:
        raise RemoteError(
            "The manager gave no link to log in.", "It is of another version: make them the same.", FAILED
        )
    return found[1]


def _open(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        say("No browser could be opened: open the address above.")


def _keep(manager: Manager, port: int) -> None:
    """Look after the tunnel, and make it again when it is lost."""
    while True:
        time.sleep(_LOOK_SECONDS)
        try:
            _look(manager)
        except LostError as error:
            say(f"{error.what} Trying again …")
            _recover(manager, port)
            say("The tunnel is back.")


def _look(manager: Manager) -> None:
    """Whether the server answers through the connection. Raises LostError. A manager that is down is none of ours."""
    files = manager.link.files
    try:
        end = socket.socket(socket.AF_UNIX)
        end.settimeout(_PROBE_SECONDS)
        with end:
            end.connect(files.http if manager.link.facts.forwards else files.control)
            if not manager.link.facts.forwards:
                return
            end.sendall(f"GET /healthz HTTP/1.0\r\nHost: localhost:{manager.target.port}\r\n\r\n".encode())
            end.recv(1)
    except TimeoutError:
        raise LostError("The server does not answer.") from None
    except OSError:
        raise LostError("The connection was lost.") from None


def _recover(manager: Manager, port: int) -> None:
    """Connect until that works; what cannot be mended by waiting is raised (RemoteError)."""
    wait = 1.0
    while True:
        # An ssh that does not know yet that the network is gone would be in the way.
        ssh.close(manager.target, manager.link.files)
        try:
            manager.link.open()
            ssh.forward(manager.target, manager.link.files, port)
            return
        except RemoteError as error:
            if not ssh.may_pass(error):
                raise
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
