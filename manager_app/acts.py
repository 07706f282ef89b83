# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is done in a process of its own, which ends with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pty
import socket
import termios
import traceback
from collections.abc import Callable
from typing import Any

from claude_sandbox import changes, inside, lifecycle, procs, session, view, working  # noqa: F401
from claude_sandbox.backends import bubblewrap, container, vm  # noqa: F401
from claude_sandbox.errors import SandboxError
from claude_sandbox.host import Host, account
from claude_sandbox.instance import Instance
from claude_sandbox.sandboxes import Request, Sandboxes

from . import wire

# All of the engine is imported above, once, so that a fork has it.


def ensure(state_dir: str, request: dict[str, Any]) -> dict[str, Any]:
    """Bring a sandbox to a state; what was done (see Sandboxes.ensure)."""
    return dataclasses.asdict(Sandboxes(state_dir=state_dir).ensure(Request(**request)))


def doctor(state_dir: str, user: str | None) -> dict[str, list[dict[str, str]]]:
    """For each backend what keeps it from working (see Sandboxes.problems)."""
    found = Sandboxes(state_dir=state_dir).problems(user)
    return {name: [dict(each.__dict__) for each in problems] for name, problems in found.items()}


def _answering(function: Callable[..., Any]) -> Callable[[socket.socket], None]:
    """The function as work: its arguments are all that comes through the stream, its value is all that goes back."""

    def work(stream: socket.socket) -> None:
        with stream.makefile("rb") as question:
            arguments = json.loads(question.read())
        reply: dict[str, Any]
        try:
            reply = {"value": function(**arguments)}
        except SandboxError as error:
            reply = wire.failure(error)
        except BaseException:  # noqa: BLE001 - whatever it was, the manager has to hear of it
            reply = {"crash": traceback.format_exc()}
        stream.sendall(json.dumps(reply).encode())

    return work


WORK: dict[str, Callable[[socket.socket], None]] = {
    "ensure": _answering(ensure),
    "doctor": _answering(doctor),
}


def become_owner(host: Host, uid: int) -> Host:
    """Turn this process into one of the account's whose sandboxes it works with; the host as that account sees it."""
    if uid == host.uid:
        return host
    procs.become(account(uid))
    return Host({"PATH": host.path}, uid)


def attach(stream: socket.socket) -> None:
    """Show a session in a terminal, and send the descriptor of its other end; ends with the client of the session.

    Until then the process waits: the terminal's end is the client's, too.
    """
    asked, _blob = wire.receive(stream)
    host = become_owner(Host.this(), asked["uid"])
    argv = session.attach_argv(host, Instance.parse(asked["instance"]).folder, bool(asked["writes"]))
    pid, end = pty.fork()
    if not pid:
        with contextlib.suppress(OSError):
            # Before tmux looks at it: a session takes the size of its only client, also of one without a say in that.
            termios.tcsetwinsize(0, (asked["rows"], asked["columns"]))
            env = {"PATH": host.path, "LANG": "C.UTF-8", "TERM": "xterm-256color"}
            os.execve(argv[0], argv, env)
        os._exit(127)
    socket.send_fds(stream, [b"t"], [end])
    os.close(end)
    stream.close()
    os.waitpid(pid, 0)
