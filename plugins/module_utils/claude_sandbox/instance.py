# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was started for a sandbox, as it is recorded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from .host import boot_id
from .procs import Process

_LATEST = 32503680000.0  # the year 3000
_SCOPE = re.compile(r"((system|user)/claude-sandbox-[0-9]+-[0-9a-f]+\.scope)?\Z", re.ASCII)
SESSION = "main"  # the name of the one session of a sandbox's tmux server


def moment(value: Any) -> float:
    """Seconds since the epoch, as recorded. Raises TypeError or ValueError where they are of no time that is shown."""
    seconds = float(value)
    if not 0 <= seconds < _LATEST:
        raise ValueError("a time in it is none")
    return seconds


def socket(folder: str) -> str:
    """Where the tmux server of a runtime folder listens."""
    return f"{folder}/tmux"


def launch_folder(folder: str) -> str:
    """Where in a runtime folder that is which passes between us and the backend."""
    return f"{folder}/launch"


@dataclasses.dataclass(frozen=True)
class Instance:
    """One start of a sandbox: its processes, its folder, and what it was given.

    Times are seconds since the epoch. `folder` is the runtime folder on the host.
    `exit_code` is known once the program has ended, and may be None even then.
    `foreground` says that it has no session: it runs in the terminal of the process `server`, and ends with that.
    `scope` is the systemd scope that it is in, where it is in one: system/UNIT or user/UNIT, by whose manager it has.
    `accelerator` is what executes a virtual machine, and `not_kvm` says why that is nothing quicker.
    """

    boot_id: str
    started_at: float
    folder: str
    server: Process
    pane: Process
    init: Process
    xvfb: Process | None
    display: int | None
    env: Mapping[str, str]
    given: tuple[str, ...]
    skipped: Mapping[str, str]
    stopped_at: float | None = None
    exit_code: int | None = None
    accelerator: str | None = None
    not_kvm: str = ""
    foreground: bool = False
    scope: str = ""

    @property
    def socket(self) -> str:
        """Where its tmux server listens."""
        return socket(self.folder)

    def running(self) -> bool:
        """Whether its program is alive. Starts no process."""
        return self.boot_id == boot_id() and self.pane.alive()

    def to_dict(self) -> dict[str, Any]:
        """The instance as JSON knows it."""
        return dataclasses.asdict(self)

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Instance:
        """An instance from its JSON. Raises KeyError, TypeError or ValueError where it is none."""
        values = {
            field.name: content[field.name]
            if field.default is dataclasses.MISSING
            else content.get(field.name, field.default)
            for field in dataclasses.fields(cls)
        }
        for name in ("server", "pane", "init", "xvfb"):
            if values[name] is not None:
                values[name] = Process(int(values[name]["pid"]), int(values[name]["start"]))
        values["given"] = tuple(values["given"])
        values["started_at"] = moment(values["started_at"])
        if values["stopped_at"] is not None:
            values["stopped_at"] = moment(values["stopped_at"])
        if not isinstance(values["folder"], str) or not values["folder"].startswith("/"):
            raise ValueError("its folder is no path")
        if not isinstance(values["scope"], str) or not _SCOPE.match(values["scope"]):
            raise ValueError("its scope is none")
        return cls(**values)
