# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Work that is under way: each piece in a thread, which waits for the process that does it."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from claude_sandbox.errors import SandboxError

from . import problems
from .problems import ProblemError

_KEPT = 500
_AT_ONCE = 16


@dataclasses.dataclass
class Job:
    """A piece of work on one sandbox. Times are seconds since the epoch.

    outcome: what was done, once it is; problem: the members of a problem JSON, where it came to nothing.
    """

    id: str
    action: str
    name: str
    begun_at: float
    ended_at: float | None = None
    outcome: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None
    _over: threading.Event = dataclasses.field(default_factory=threading.Event, repr=False)

    @property
    def done(self) -> bool:
        """Whether it is over, well or not."""
        return self._over.is_set()

    def wait(self, seconds: float | None) -> bool:
        """Whether it is over within that time."""
        return self._over.wait(seconds)


class Jobs:
    """The pieces of work of this process; those that are over are kept for a while, so that they can be asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[str, Job] = {}

    def begin(self, action: str, name: str, work: Callable[[], dict[str, Any]]) -> Job:
        """Begin a piece of work. Raises ProblemError where too many are under way."""
        job = Job(secrets.token_hex(8), action, name, time.time())
        with self._lock:
            if sum(not each.done for each in self._all.values()) >= _AT_ONCE:
                raise ProblemError(503, f"{_AT_ONCE} sandboxes are being changed just now.", "Try again in a moment.")
            for identity in [each.id for each in self._all.values() if each.done][: -_KEPT or None]:
                del self._all[identity]
            try:
                threading.Thread(target=_carry_out, args=(job, work), name=f"job {job.id}", daemon=True).start()
            except RuntimeError:
                raise ProblemError(503, "This host has no room for another thread.", "Try again in a moment.") from None
            self._all[job.id] = job
        return job

    def get(self, identity: str) -> Job:
        """The job of this id. Raises ProblemError where it is not known (any more)."""
        with self._lock:
            job = self._all.get(identity)
        if job is None:
            raise ProblemError(404, "There is no such job; they are forgotten when the manager starts again.")
        return job

    def under_way(self) -> dict[str, str]:
        """What is being done to each sandbox, by name."""
        with self._lock:
            return {job.name: job.action for job in self._all.values() if not job.done}


def _carry_out(job: Job, work: Callable[[], dict[str, Any]]) -> None:
    try:
        job.outcome = work()
    except SandboxError as error:
        job.problem = problems.content(problems.status_of(error), error.what, error.hint)
    except Exception as error:  # noqa: BLE001 - whoever waits for the job has to hear of it
        job.problem = problems.crash(error)
    finally:
        job.ended_at = time.time()
        job._over.set()
