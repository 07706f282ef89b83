# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prints a line for each figure: NAME RATIO <= LIMIT, then ok or SHORT, and below it the measurements behind it.

Ends with 1 where a figure could not be measured. What is short is no failure: times are the machine's, too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from types import FrameType

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

from . import container, create, fleet, frames, idle, launcher, manager, memory, modules, place, remote, usage, vm
from .figure import Figure

_SECONDS = 1000  # beside those in which nothing happens but that a manager is looked at
# Those that make many files come before the one that makes and deletes them again and again.
_WORK: dict[str, Callable[[place.Place], Iterable[Figure]]] = {
    "converged": lambda where: [modules.one(where)],
    "fifty": modules.many,
    "idle-memory": lambda where: [memory.measure(where)],
    "usage-refresh": lambda where: [usage.measure(where)],
    "frames": frames.measure,
    "manager-list": lambda where: [manager.listing(where)],
    "manager-idle": idle.measure,
    "manager-create": lambda where: [manager.creation(where)],
    "launcher-version": lambda where: [launcher.measure(where)],
    "remote-list": lambda where: [remote.measure(where)],
    "create": create.measure,
    "container": container.measure,
    "vm": vm.measure,
    "fleet": fleet.measure,
}


def _main() -> int:
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _give_up)
    signal.alarm(_SECONDS + idle.seconds())
    with place.made() as where:
        measured = [_printed(name, work, where) for name, work in _WORK.items()]
    return 0 if all(measured) else 1


def _give_up(number: int, _frame: FrameType | None) -> None:
    signal.alarm(0)
    # Not an Exception: what cleans up on its way does so, and nothing takes it for a figure's failure.
    raise SystemExit(f"The bench gives up: {signal.Signals(number).name}.")


def _printed(name: str, work: Callable[[place.Place], Iterable[Figure]], where: place.Place) -> bool:
    """Whether the figures could be measured."""
    try:
        for figure in work(where):
            print(figure.lines(), flush=True)
    except (SandboxError, OSError, RuntimeError, ValueError, subprocess.SubprocessError):
        print(f"{name} was not measured:", flush=True)
        traceback.print_exc(file=sys.stdout)
        return False
    return True


if __name__ == "__main__":
    sys.exit(_main())
