# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From nothing to the agent's program running, against the bare programs started one after the other."""

from __future__ import annotations

import os
import subprocess

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request, Sandboxes

from . import place
from .figure import Figure, in_turns, milliseconds, ratio, shown

LIMIT = 1.5
_ROUNDS = 12
_ROOT_ROUNDS = 5
_SECONDS = 30
_XVFB = "-screen 0 1920x1080x24 -nolisten tcp -extension GLX".split()
_BWRAP = "--unshare-all --ro-bind / / --proc /proc --dev /dev true".split()


class Floor:
    """What no sandbox can do without: a display, a terminal, namespaces."""

    def __init__(self, folder: str) -> None:
        host = Host.this()
        self._xvfb, self._tmux, self._bwrap = (host.need(program) for program in ("Xvfb", "tmux", "bwrap"))
        self._socket = f"{folder}/floor"

    def measure(self) -> float:
        """How long the three take to be up; they are gone afterwards."""
        servers: list[subprocess.Popen[bytes]] = []
        try:
            return milliseconds(lambda: self._up(servers))
        finally:
            subprocess.run([self._tmux, "-S", self._socket, "kill-server"], capture_output=True, check=False)
            for server in servers:
                server.terminate()
                server.wait(_SECONDS)

    def _up(self, servers: list[subprocess.Popen[bytes]]) -> None:
        self._display(servers)
        # Words of its own, so that no shell is started for them.
        session = [self._tmux, "-S", self._socket, "-f", "/dev/null", "new-session", "-d", "sleep", "1d"]
        subprocess.run(session, check=True, timeout=_SECONDS)
        subprocess.run([self._bwrap, *_BWRAP], check=True, timeout=_SECONDS)

    def _display(self, servers: list[subprocess.Popen[bytes]]) -> None:
        answer, number = os.pipe()
        argv = [self._xvfb, "-displayfd", str(number), *_XVFB]
        servers.append(subprocess.Popen(argv, pass_fds=(number,), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        os.close(number)
        with open(answer, "rb", buffering=0) as pipe:
            text = b""
            while not text.endswith(b"\n"):
                piece = pipe.read(16)
                if not piece:
                    raise RuntimeError("Xvfb ended before it had a display")
                text += piece


def measure(where: place.Place) -> Figure:
    """The figure, for an account that runs the engine itself."""
    # Asked for here, because the worker may make no folder for the project.
    request = Request("new", params=where.params("create"))
    samples: dict[str, list[float]] = where.worker(lambda: _as_owner(where, request))
    notes = [shown(samples)]
    if where.has_own_account:
        with place.registry(f"{where.folder}/registry") as sandboxes:
            by_root = in_turns(_ROOT_ROUNDS, {"create": lambda: _creation(sandboxes, request)})
        notes.append(f"for information, root's engine for another account: {shown(by_root)}")
    return Figure("create", ratio(samples["create"], samples["floor"]), LIMIT, tuple(notes))


def _as_owner(where: place.Place, request: Request) -> dict[str, list[float]]:
    with place.registry(f"{where.folder}/home/registry") as sandboxes:
        floor = Floor(f"{where.folder}/home")
        return in_turns(_ROUNDS, {"floor": floor.measure, "create": lambda: _creation(sandboxes, request)})


def _creation(sandboxes: Sandboxes, request: Request) -> float:
    try:
        return milliseconds(lambda: sandboxes.ensure(request))
    finally:
        place.remove(sandboxes, request.name)


def floors(where: place.Place, rounds: int) -> list[float]:
    """The floor alone, measured by a process of the account's."""
    floor = Floor(f"{where.folder}/home")
    found: list[float] = where.worker(lambda: in_turns(rounds, {"floor": floor.measure})["floor"])
    return found
