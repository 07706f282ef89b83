# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a backend is: few methods, and above them everything is written once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..grants import Bind
from ..host import Account, Host, Problem
from ..procs import Process
from ..spec import Spec
from ..toolchain import Toolchain


@dataclasses.dataclass(frozen=True)
class Command:
    """What to run in the session's pane, and its descriptors; what it reads there comes later, as contents.

    inputs: the descriptors that it reads, the first of them before the others.
    outputs: descriptor → name of a file in the launch folder that it writes.
    gates: descriptor → name of a pipe there that holds it until we write.
    """

    argv: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: Mapping[int, str]
    gates: Mapping[int, str]


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a backend needs to know to isolate one program.

    files: contents put at absolute paths inside, as copies of the sandbox's own.
    folder: the launch folder on the host, for what passes between us and the backend.
    masks: paths of the toolchain to be hidden, each with whether it is a folder.
    """

    name: str
    spec: Spec
    owner: Account
    toolchain: Toolchain
    binds: tuple[Bind, ...]
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    folder: str
    masks: tuple[tuple[str, bool], ...] = ()


class Backend(Protocol):
    """One way of isolating a program."""

    def problems(self, host: Host, spec: Spec) -> list[Problem]:
        """Why this backend cannot work on this host, each with what mends it."""

    def command(self, host: Host, argv: Sequence[str], files: int) -> Command:
        """What starts a sandbox with so many files in it, before it is known what the sandbox gets."""

    def contents(self, job: Job) -> dict[int, bytes]:
        """What that command reads: secrets may be in it, and never are in its argv."""

    def settle(self, job: Job, pane: Process, release: Callable[[], None]) -> Process:
        """Wait until the program runs inside what was meant; the sandbox's first process.

        release: opens the gate, to be called when all is as it should be.
        Raises SandboxError where it came to nothing.
        """

    def enter(self, init: Process) -> None:
        """Turn this process into one inside the running sandbox, as bound by it as the agent is."""

    def exit_code(self, folder: str) -> int | None:
        """What the program ended with, or None where it is not known; `folder` is the launch folder."""
