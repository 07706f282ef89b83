# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What all parts of the manager share, made once for each app."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, cast

from flask import current_app

from claude_sandbox.registry import Record
from claude_sandbox.sandboxes import Request, Sandboxes

from .config import Config
from .eyes import Eyes
from .forks import Forks
from .jobs import Job, Jobs
from .pictures import Pictures
from .roster import Roster
from .system import System
from .watch import Watch

_ACTIONS = {"started": "start", "stopped": "stop", "restarted": "restart", "absent": "delete"}


@dataclasses.dataclass(frozen=True)
class Manager:
    """The parts, in the order in which they rest on each other. stopping: set when the process is asked to end."""

    config: Config
    engine: Sandboxes
    forks: Forks
    eyes: Eyes
    roster: Roster
    jobs: Jobs
    watch: Watch
    pictures: Pictures
    system: System
    stopping: threading.Event

    def submit(self, request: Request) -> Job:
        """Have a sandbox brought to a state. Raises ProblemError where too much is under way."""

        def work() -> dict[str, Any]:
            content = dataclasses.asdict(request)
            outcome = self.forks.run("ensure", state_dir=self.config.state_dir, request=content)
            return cast(dict[str, Any], outcome)

        return self.jobs.begin(_ACTIONS[request.state], request.name, work)

    def doctor(self, user: str | None = None) -> dict[str, list[dict[str, str]]]:
        """For each backend what on this host keeps it from working, and what mends it. Raises SandboxError."""
        found = self.forks.run("doctor", state_dir=self.config.state_dir, user=user)
        return cast(dict[str, list[dict[str, str]]], found)

    def ask(self, record: Record, do: str, **question: Any) -> tuple[Any, bytes]:
        """What the observer of a sandbox's account says to a question about it. Raises SandboxError."""
        return self.eyes.about(record, do, **question)

    def close(self) -> None:
        """End what was started for the manager alone; sandboxes go on."""
        self.stopping.set()
        self.system.close()
        self.eyes.close()
        self.forks.close()


def made(config: Config) -> Manager:
    """The parts of a manager."""
    engine = Sandboxes(state_dir=config.state_dir)
    forks, jobs, roster = Forks(), Jobs(), Roster(engine)
    eyes = Eyes(forks, engine.registry)

    def take(record: Record, width: int | None, kind: str, known: list[str]) -> tuple[str, bytes]:
        mark, picture = eyes.about(record, "frame", width=width, kind=kind, known=known)
        return str(mark), picture

    return Manager(
        config,
        engine,
        forks,
        eyes,
        roster,
        jobs,
        Watch(roster, eyes, jobs),
        Pictures(take),
        System(config.state_dir),
        threading.Event(),
    )


def current() -> Manager:
    """The manager of the app that handles this request."""
    return cast(Manager, current_app.extensions["manager"])
