# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a sandbox may use of its host at most: as systemd is told it, and as the kernel then shows it.

Pure. A mapping of limits has the keys of spec.LIMIT_OPTIONS; None stands for no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_MIB = 1 << 20
# What systemd takes for "no limit", and for an IO weight that is not set: the largest number of its type.
_NONE = (1 << 64) - 1
# The controllers of the kernel by which they are kept, cgroups(7).
CONTROLLERS: Mapping[str, str] = {"memory": "memory", "cpus": "cpu", "tasks": "pids", "io_weight": "io"}

Property = tuple[str, str, int]  # name, D-Bus type, value


def wanted(limits: Mapping[str, Any]) -> set[str]:
    """The names of those that are set."""
    return {name for name, value in limits.items() if value is not None}


def properties(limits: Mapping[str, Any]) -> list[Property]:
    """All of them as properties of a unit, systemd.resource-control(5): those that are not set take a limit away."""
    memory, cpus = limits.get("memory"), limits.get("cpus")
    return [
        ("MemoryMax", "t", _NONE if memory is None else memory * _MIB),
        # What does not fit is not put on the disk instead: that would be the neighbours' trouble.
        ("MemorySwapMax", "t", _NONE if memory is None else 0),
        ("CPUQuotaPerSecUSec", "t", _NONE if cpus is None else round(cpus * 1_000_000)),
        ("TasksMax", "t", _NONE if limits.get("tasks") is None else limits["tasks"]),
        ("IOWeight", "t", _NONE if limits.get("io_weight") is None else limits["io_weight"]),
    ]


def settings(limits: Mapping[str, Any]) -> list[str]:
    """Those that are set, as NAME=VALUE of a unit file."""
    found = []
    for name, _kind, value in properties(limits):
        if value == _NONE:
            continue
        # The one that has another name and unit in a file.
        found.append(f"CPUQuota={value / 10_000:g}%" if name == "CPUQuotaPerSecUSec" else f"{name}={value}")
    return found


def unkept(limits: Mapping[str, Any], read: Callable[[str, str], str | None]) -> list[str]:
    """The names of those that are set and that the kernel does not keep.

    read: the content of a file of the sandbox's cgroup by its controller's name and its own; None where there is none.
    """
    return sorted(name for name in wanted(limits) if not _KEPT[name](limits[name], read))


def _memory(value: int, read: Callable[[str, str], str | None]) -> bool:
    return str(value * _MIB) in (read("memory", "memory.max"), read("memory", "memory.limit_in_bytes"))


def _tasks(value: int, read: Callable[[str, str], str | None]) -> bool:
    return read("pids", "pids.max") == str(value)


def _cpus(value: float, read: Callable[[str, str], str | None]) -> bool:
    both = read("cpu", "cpu.max") or f"{read('cpu', 'cpu.cfs_quota_us')} {read('cpu', 'cpu.cfs_period_us')}"
    words = both.split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return False
    # The kernel counts whole microseconds of a period.
    return abs(int(words[0]) / int(words[1]) - value) <= max(0.01 * value, 0.001)


def _io_weight(value: int, read: Callable[[str, str], str | None]) -> bool:
    files = (("io", "io.weight"), ("io", "io.bfq.weight"), ("blkio", "blkio.bfq.weight"), ("blkio", "blkio.weight"))
    shown = [text.split()[-1] for text in (read(*each) for each in files) if text]
    # systemd scales it for those that know another range: that there is one other than the default is proof enough.
    return any(number == str(value) or (number.isdigit() and number not in ("100", "500")) for number in shown)


_KEPT: Mapping[str, Callable[[Any, Callable[[str, str], str | None]], bool]] = {
    "memory": _memory,
    "cpus": _cpus,
    "tasks": _tasks,
    "io_weight": _io_weight,
}
