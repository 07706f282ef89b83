# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Control groups of processes, in the one hierarchy of today's hosts and in the several of older ones: cgroups(7)."""

from __future__ import annotations

import contextlib
import glob
import os
import re

_ROOT = "/sys/fs/cgroup"
_PROC = "/proc"
_LIMIT = 4096  # bytes of a file with a setting
_SYSTEMD = "name=systemd"


def of(pid: int) -> dict[str, str]:
    """The folder of a process' group for each controller; "" is the hierarchy that has all, where there is one.

    Raises OSError where the process is gone.
    """
    with open(f"{_PROC}/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    found = {}
    for _number, names, path in (line for line in lines if len(line) == 3):
        for name in names.split(","):
            top = f"{_ROOT}/{name.removeprefix('name=') or 'unified'}"
            if not name and not os.path.isdir(top):
                top = _ROOT
            found[name] = f"{top}{path}".rstrip("/")
    return found


def setting(pid: int, unit: str, controller: str, file_name: str) -> str | None:
    """A setting of a process' group, without the line end; None where there is none, or the group is not the unit's."""
    with contextlib.suppress(OSError):
        groups = of(pid)
        folder = groups.get(controller, groups.get(""))
        if folder is not None and unit in folder.split("/"):
            return _read(f"{folder}/{file_name}").strip() or None
    return None


def disks_have_weights() -> bool:
    """Whether a weight has an effect on any disk: BFQ is its scheduler, or the cost model is on (cgroup-v2, "IO")."""
    for path in glob.iglob("/sys/block/*/queue/scheduler"):
        if "[bfq]" in _read(path):
            return True
    return "enable=1" in _read(f"{_ROOT}/io.cost.qos")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(_LIMIT)
    except OSError:
        return ""


def join(pid: int, moved: int | None = None) -> None:
    """Put a process, this one where none is given, where another one is; for root. Raises OSError."""
    mover = os.getpid() if moved is None else moved
    # Where the two are together already nothing is to be done, and perhaps nothing may be.
    for folder in set(of(pid).values()) - set(of(mover).values()):
        # A hierarchy that is not mounted has nothing to say.
        with contextlib.suppress(FileNotFoundError), open(f"{folder}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(mover))


def unit(pid: int, ending: str) -> str | None:
    """The innermost unit of systemd's with this ending that a process is in; None where it is in none, or gone."""
    with contextlib.suppress(OSError):
        groups = of(pid)
        path = groups.get(_SYSTEMD, groups.get("", ""))
        parts = [part for part in path.split("/") if part.endswith(ending)]
        # systemd puts a _ before what could be mistaken for a setting of the kernel's.
        return re.sub(r"\A_", "", parts[-1]) if parts else None
    return None
