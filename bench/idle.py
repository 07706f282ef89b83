# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the manager takes while nothing happens and one person has the overview open: processor, and memory over time.

BENCH_IDLE_SECONDS says for how long it is looked at; the figures are about ten minutes.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import statistics
import time
from collections.abc import Sequence

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request, Sandboxes

from . import manager, memory, place, served
from .figure import Figure

CPU_LIMIT = 0.05
MEMORY_LIMIT = 1.02
_RECORDED = 100
_RUNNING = 20
_SECONDS = 60
# As in the pages' script.
_PACE = 2.0
_SYSTEM_EVERY = 3
_SINCE = re.compile(rb'id="since" name="since" value="([^"]*)"')
_PICTURE = re.compile(rb'<img [^>]*src="([^"]*)"')


def seconds() -> int:
    """How long it is looked at; ValueError where the variable is no number."""
    return int(os.environ.get("BENCH_IDLE_SECONDS") or _SECONDS)


class _Browser:
    """The overview in a browser: what it asks for, in the order in which it does."""

    def __init__(self, client: served.Client) -> None:
        self._client = client
        self._since = ""
        self._ticks = 0
        self._pictures: set[str] = set()
        self.changes = 0
        self._take(client.get("/"))
        if len(self._pictures) != _RUNNING:
            raise RuntimeError(f"{len(self._pictures)} of {_RUNNING} screens are on the page")

    def poll(self) -> None:
        """What it asks for every two seconds."""
        content = self._client.get(f"/live?since={self._since}")
        if content:
            self.changes += 1
            self._take(content)
        if self._ticks % _SYSTEM_EVERY == 0:
            self._client.get("/live/system")
        self._ticks += 1

    def _take(self, content: bytes) -> None:
        since = _SINCE.search(content)
        if since is None:
            raise RuntimeError("the page does not say what it shows")
        self._since = since[1].decode()
        for source in _PICTURE.findall(content):
            address = html.unescape(source.decode())
            # The address names what is shown: whoever has it does not ask again.
            if address not in self._pictures:
                self._client.get(address)
                self._pictures.add(address)


def measure(where: place.Place) -> list[Figure]:
    """Both figures, of one run."""
    folder = where.folder
    with place.registry(f"{folder}/manager-idle") as sandboxes:
        _fill(where, sandboxes)
        with (
            served.manager(folder, sandboxes.registry.state_dir) as server,
            served.connected(server) as client,
        ):
            browser = _Browser(client)
            began, before = time.monotonic(), _cpu_seconds(server)
            sizes = _watched(browser, server, began + seconds())
            took, used = time.monotonic() - began, _cpu_seconds(server) - before
            total = _total_megabytes(server)
    scene = f"{_RECORDED} sandboxes stopped, {_RUNNING} running, {took:.0f} s, {browser.changes} answers with changes"
    return [
        Figure("manager-idle", used / took, CPU_LIMIT, (f"{used:.2f} s of one processor; {scene}",)),
        _memory(sizes, total),
    ]


def _fill(where: place.Place, sandboxes: Sandboxes) -> None:
    requests = [Request(f"idle-{each}", params=manager.params(where, f"idle-{each}")) for each in range(_RUNNING)]
    for found in sandboxes.ensure_all(requests).values():
        if isinstance(found, SandboxError):
            raise found
    manager.recorded(where, sandboxes, _RECORDED)


def _watched(browser: _Browser, server: served.Server, end: float) -> list[float]:
    """Have the browser poll until then; how many megabytes of their own the processes had at each time."""
    sizes = []
    due = time.monotonic()
    while due < end:
        browser.poll()
        sizes.append(sum(_own_megabytes(pid) for pid in _tree(server.pid)))
        due += _PACE
        time.sleep(max(0.0, due - time.monotonic()))
    return sizes


def _cpu_seconds(server: served.Server) -> float:
    """What all its processes have used so far, with those that ended."""
    return procs.usages([server.pid])[server.pid].cpu_seconds


def _memory(sizes: Sequence[float], total: float) -> Figure:
    """The last fifth of the time against the second one: in the first, caches are filled."""
    fifth = max(1, len(sizes) // 5)
    early, late = statistics.mean(sizes[fifth : 2 * fifth]), statistics.mean(sizes[-fifth:])
    note = f"anonymous memory {early:.2f} MB in the second fifth of the time, {late:.2f} MB in the last"
    return Figure("manager-memory", late / early, MEMORY_LIMIT, (f"{note}; PSS of all {total:.1f} MB in the end",))


def _own_megabytes(pid: int) -> float:
    """What is no file's: programs and screens are others' too, and count less the more others there are."""
    # One that ends meanwhile has none.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(b"RssAnon:")) / 1024
    return 0.0


def _total_megabytes(server: served.Server) -> float:
    total = 0.0
    for pid in _tree(server.pid):
        with contextlib.suppress(OSError, KeyError):
            total += memory.megabytes(pid)[0]
    return total


def _tree(pid: int) -> list[int]:
    """A process and all that descend from it, whichever of its threads started them."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                children += [int(word) for word in file.read().split()]
    return [pid, *(each for child in children for each in _tree(child))]
