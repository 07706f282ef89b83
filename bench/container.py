# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A container from nothing to the agent's program running, against a bare systemd-nspawn, a display and a terminal."""

from __future__ import annotations

import os

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import mounts, procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request

from . import place
from .create import Floor, stopped, turns
from .figure import Figure, ratio, shown

LIMIT = 1.5
_ROUNDS = 8
_NSPAWN = (
    "systemd-nspawn",
    "--quiet",
    "--register=no",
    "--keep-unit",
    "--settings=no",
    "--as-pid2",
    "--private-network",
)


def measure(where: place.Place) -> list[Figure]:
    """Starting and stopping, which only root can do."""
    if not where.has_own_account:
        return []
    request = Request("new", params=where.params("container") | {"backend": "container"})
    samples: dict[str, list[float]] = procs.fork(None, lambda: _in_turns(where, request)).result()
    stops = samples.pop("stop")
    started = Figure("create-container", ratio(samples["create"], samples["floor"]), LIMIT, (shown(samples),))
    return [started, stopped("container", stops, 1.0)]


def _in_turns(where: place.Place, request: Request) -> dict[str, list[float]]:
    mounts.detach_this_process()
    root = f"{where.folder}/root"
    os.mkdir(root)
    _fill(root)
    with place.registry(f"{where.folder}/container-registry") as sandboxes:
        floor = Floor(f"{where.folder}/home", (*_NSPAWN, f"--directory={root}", "/bin/true"))
        return turns(sandboxes, request, floor, _ROUNDS)


def _fill(root: str) -> None:
    """An empty root in memory, with the host's programs."""
    if not mounts.is_temporary("/run"):
        os.makedirs("/run/systemd", exist_ok=True)
        mounts.temporary("/run/systemd", mode="755")
    mounts.temporary(root, mode="755")
    os.mkdir(f"{root}/usr")
    for name in ("bin", "lib", "lib64", "sbin"):
        os.symlink(f"usr/{name}", f"{root}/{name}")
    source = os.open("/usr", os.O_PATH | os.O_CLOEXEC)
    target = os.open(f"{root}/usr", os.O_PATH | os.O_CLOEXEC)
    mounts.attach(mounts.clone(source, mounts.RDONLY), target)
