# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From nothing to the agent's program running, against the bare programs started one after the other."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Sequence

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
    """What no sandbox can do without: a display, a terminal, namespaces (those of bwrap, unless given)."""

    def __init__(self, folder: str, namespaces: Sequence[str] = ("bwrap", *_BWRAP)) -> None:
        host = Host.this()
        program, *options = namespaces
        self._xvfb, self._tmux = host.need("Xvfb"), host.need("tmux")
        self._namespaces = [host.need(program), *options]
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
        subprocess.run(self._namespaces, check=True, timeout=_SECONDS)

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


def measure(where: place.Place) -> list[Figure]:
    """Starting and stopping, for an account that runs the engine itself."""
    # Asked for here, because the worker may make no folder for the project.
    request = Request("new", params=where.params("create"))
    samples: dict[str, list[float]] = where.worker(lambda: _as_owner(where, request))
    notes = [shown(samples)]
    if where.has_own_account:
        with place.registry(f"{where.folder}/registry") as sandboxes:
            by_root = in_turns(_ROOT_ROUNDS, {"create": lambda: creation(sandboxes, request)})
        notes.append(f"for information, root's engine for another account: {shown(by_root)}")
    stops = {"stop": samples.pop("stop")}
    started = Figure("create", ratio(samples["create"], samples["floor"]), LIMIT, tuple(notes))
    return [started, stopped("bubblewrap", stops["stop"], 1.0)]


def stopped(backend: str, samples: Sequence[float], seconds: float) -> Figure:
    """From a running sandbox to nothing left of it, against the time that it may take."""
    share = statistics.median(samples) / 1000 / seconds
    return Figure(f"stop-{backend}", share, 1, (shown({"stop": samples}), f"the limit is {seconds:g} s"))


def _as_owner(where: place.Place, request: Request) -> dict[str, list[float]]:
    with place.registry(f"{where.folder}/home/registry") as sandboxes:
        return turns(sandboxes, request, Floor(f"{where.folder}/home"), _ROUNDS)


def turns(sandboxes: Sandboxes, request: Request, floor: Floor, rounds: int) -> dict[str, list[float]]:
    """Samples of the floor, of starting, and of stopping, in milliseconds."""
    stops: list[float] = []
    work = {"floor": floor.measure, "create": lambda: creation(sandboxes, request, stops)}
    return {**in_turns(rounds, work), "stop": stops}


def creation(sandboxes: Sandboxes, request: Request, stops: list[float] | None = None) -> float:
    """How long a start takes, in milliseconds; how long the stop takes is put into `stops`."""
    try:
        started = milliseconds(lambda: sandboxes.ensure(request))
        took = milliseconds(lambda: sandboxes.ensure(Request(request.name, "stopped")))
        if stops is not None:
            stops.append(took)
        return started
    finally:
        place.remove(sandboxes, request.name)


def floors(where: place.Place, rounds: int) -> list[float]:
    """The floor alone, measured by a process of the account's."""
    floor = Floor(f"{where.folder}/home")
    found: list[float] = where.worker(lambda: in_turns(rounds, {"floor": floor.measure})["floor"])
    return found
