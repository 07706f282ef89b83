# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a backend is: few methods, and above them everything is written once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from .. import namespaces
from ..commands import Completed, Invocation
from ..errors import SandboxError, shown
from ..grants import Bind
from ..host import Account, Host, Problem
from ..instance import Instance
from ..privileged import Handler
from ..procs import Process, Usage
from ..spec import Spec
from ..toolchain import Toolchain


@dataclasses.dataclass(frozen=True)
class Command:
    """What to run in the session's pane, and its descriptors; what it reads there comes later, as contents.

    inputs: the descriptors that it reads, the first of them before the others; none where it reads no contents.
    outputs: descriptor → name of a file in the launch folder that it writes.
    gates: descriptor → name of a pipe there that holds it until we write.
    resizes: whether what runs in the pane follows when that gets another size.
    """

    argv: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: Mapping[int, str]
    gates: Mapping[int, str]
    resizes: bool = True


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a backend needs to know to isolate one program.

    id, record: the sandbox's id, and the folder in which it is recorded.
    argv: the program with its arguments. files: contents put at absolute paths inside, as copies of the sandbox's own.
    folder: the launch folder on the host, for what passes between us and the backend.
    masks: paths of the toolchain to be hidden, each with whether it is a folder.
    display: the number of the sandbox's X display, where it has one of the host's. resumes: see lifecycle.Start.
    """

    name: str
    id: str
    record: str
    spec: Spec
    owner: Account
    argv: tuple[str, ...]
    toolchain: Toolchain
    binds: tuple[Bind, ...]
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    folder: str
    masks: tuple[tuple[str, bool], ...] = ()
    display: int | None = None
    resumes: bool = False


def ordered(binds: tuple[Bind, ...]) -> list[Bind]:
    """Parents before children, so that none hides another."""
    return sorted(binds, key=lambda bind: bind.target.rstrip("/").count("/"))


def check_mounts(init: Process, places: Iterable[tuple[Bind, str]]) -> None:
    """Compare what was mounted with what was meant: a path can be swapped for a link in between.

    init: a process that sees the mounts. places: what was meant, and the path at which it was mounted.
    """
    for bind, path in places:
        if bind.checked and not namespaces.same_file(bind.source, f"/proc/{init.pid}/root", path):
            raise exchanged(bind.source)


def exchanged(source: str) -> SandboxError:
    """The error for what was one thing when it was looked at, and another when it was mounted."""
    return SandboxError(
        f"{shown(source)} was exchanged for something else while the sandbox started.",
        "Look who writes in that directory, then start again.",
    )


@dataclasses.dataclass(frozen=True)
class Running:
    """A sandbox that was started, as far as a backend asks. instance: None where what was started is not known."""

    name: str
    id: str
    record: str
    spec: Spec
    owner: Account
    instance: Instance | None

    @property
    def init(self) -> Process:
        """Its first process. Raises SandboxError where there is none."""
        if self.instance is None:
            raise SandboxError(f"Sandbox {shown(self.name)} is not running.", "Start it first (state: started).")
        return self.instance.init


class Backend(Protocol):
    """One way of isolating a program. Everything runs under the sandbox's account but what `handlers` holds."""

    OWN_SCREEN: bool  # whether it has a screen of its own, so that it needs no X server of the host's

    def problems(self, host: Host, spec: Spec) -> list[Problem]:
        """Why this backend cannot work on this host, or not as asked, each with what mends it."""

    def check(self, spec: Spec, owner: Account) -> None:
        """Look at what is asked to be mounted. Raises SandboxError where this backend could not have it used."""

    def handlers(self, owner: Account, trusted: bool) -> Mapping[str, Handler]:
        """What root does for it on request (see privileged.serving); `trusted` where root decided what is asked for."""

    def command(self, host: Host, spec: Spec, argv: Sequence[str], files: int) -> Command:
        """What starts a sandbox with so many files in it, before it is known what the sandbox gets."""

    def contents(self, job: Job) -> dict[int, bytes]:
        """What that command reads: secrets may be in it, and never are in its argv."""

    def settle(self, host: Host, job: Job, pane: Process, release: Callable[[], None]) -> Process:
        """Wait until the program runs inside what was meant; the sandbox's first process.

        release: opens the gate, to be called when all is as it should be.
        Raises SandboxError where it came to nothing.
        """

    def execute(self, host: Host, running: Running, invocation: Invocation) -> Completed:
        """Run a command beside the agent, as bound as that. Raises SandboxError where the sandbox cannot be entered."""

    def interact(self, host: Host, running: Running, invocation: Invocation, terminal: int | None) -> int:
        """Run a command beside the agent in a terminal, given by its descriptor; its exit code.

        terminal: None for the standard streams of this process. Raises SandboxError where the backend cannot do so.
        """

    def exists(self, host: Host, running: Running, path: str) -> bool:
        """Whether a path exists inside, as seen from there."""

    def end(self, host: Host, running: Running, grace: float) -> None:
        """End the program and the sandbox, and wait for it. grace: seconds that the program has to end by itself."""

    def agent_pid(self, running: Running) -> int | None:
        """The agent's pid as it is inside, or None where it is not known."""

    def usage(self, running: Running) -> Usage:
        """What its processes use now, without starting any."""

    def why_dead(self, folder: str) -> str | None:
        """Why it ended, in one line, where that was not the program's own doing; `folder` is the launch folder."""

    def own_grants(self, spec: Spec, toolchain: Toolchain) -> tuple[str, ...]:
        """The grants that it has of its own, and needs none of the host's for."""

    def accelerator(self, spec: Spec) -> tuple[str, str] | None:
        """What executes a guest's instructions, and why nothing quicker, or nothing; None where there is no guest."""

    def frame(self, running: Running) -> bytes:
        """What its own screen shows, as PNG. Raises SandboxError where it has none of its own."""

    def exit_code(self, folder: str) -> int | None:
        """What the program ended with, or None where it is not known; `folder` is the launch folder."""
