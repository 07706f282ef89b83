# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a sandbox keeps in memory while its agent does nothing, the agent itself left out."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.instance import Instance
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request

from . import place
from .figure import Figure

LIMIT_MB = 20
_IDLE_SECONDS = 1.0


def measure(where: place.Place) -> Figure:
    """The figure, relative to what is allowed."""
    with place.registry(f"{where.folder}/memory") as sandboxes:
        sandboxes.ensure(Request("idle", params=where.params("idle")))
        time.sleep(_IDLE_SECONDS)
        record = sandboxes.registry.get("idle")
        if record is None or record.instance is None:
            raise RuntimeError("the sandbox is gone")
        sizes = [(name, *megabytes(pid)) for name, pid in _processes(record.instance)]
    total = sum(pss for _, pss, _ in sizes)
    shares = ", ".join(f"{name} {pss:.1f} ({private:.1f})" for name, pss, private in sizes)
    notes = (f"{total:.1f} MB of {LIMIT_MB} MB; PSS (private) in MB: {shares}",)
    return Figure("idle-memory", total / LIMIT_MB, 1.0, notes)


def _processes(instance: Instance) -> Iterator[tuple[str, int]]:
    """The sandbox's processes with their names: all but those that its first process started."""
    if instance.xvfb is not None:
        yield "Xvfb", instance.xvfb.pid
    waiting = [instance.server.pid]
    while waiting:
        pid = waiting.pop(0)
        yield procs.command_name(pid) or str(pid), pid
        if pid != instance.init.pid:
            waiting += [child.pid for child in procs.children(pid)]


def megabytes(pid: int) -> tuple[float, float]:
    """PSS and private memory. What is shared counts less the more processes of the machine share it."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        fields = {line.split()[0]: line.split()[1] for line in file if line.endswith(" kB\n")}
    private = int(fields["Private_Clean:"]) + int(fields["Private_Dirty:"])
    return int(fields["Pss:"]) / 1024, private / 1024
