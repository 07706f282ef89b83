# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The agent's own terminal in a sandbox that runs: typing into it, and reading its screen.

All of it runs under the sandbox's account.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

from . import claude, lifecycle, procs, session, usage
from .errors import ConflictError, SandboxError, shown
from .host import Host
from .instance import Instance
from .registry import Record

_STEP = 0.1  # seconds between two looks at a screen
_BEGIN_SECONDS = 3.0  # within which an agent that was given work has begun; measured: 0.06
_PASTE_SECONDS = 0.3  # after which a key is no part of what was typed before
_EMULATED = 10  # times as long where the processor is emulated


def live_instance(record: Record) -> Instance:
    """The running instance; a SandboxError where the sandbox does not run."""
    record.asked()
    live = record.live
    if live is None:
        raise ConflictError(f"Sandbox {shown(record.name)} is not running.", "Start it first (state: started).")
    return live


def check_display(record: Record) -> None:
    """Raises SandboxError where the sandbox has no screen."""
    if not record.asked().granted("display"):
        raise ConflictError(f"Sandbox {shown(record.name)} has no display.", "Grant it one: grants: {display: true}.")


@dataclasses.dataclass(frozen=True)
class Wait:
    """What to wait for on the agent's screen: a pattern, or the agent being idle; at most `timeout` seconds."""

    pattern: str | None = None
    idle: bool = False
    timeout: float = 60.0


def converse(host: Host, record: Record, text: str | None, keys: Sequence[str], wait: Wait) -> dict[str, Any]:
    """Type into the agent's terminal, wait, and read the screen.

    Returns the screen's text, and whether what was waited for came. Raises SandboxError where it cannot be waited for.
    """
    instance = live_instance(record)
    if instance.foreground:
        raise ConflictError(f"Sandbox {shown(record.name)} runs in somebody's terminal, and only there.")
    pattern = _compiled(wait.pattern)
    if wait.idle and record.asked().agent != ["claude"]:
        raise SandboxError("Only Claude Code says when it is idle.", "Wait for a pattern on the screen instead.")
    if (text or keys) and record.asked().agent == ["claude"]:
        # It says what it does as soon as it takes input.
        procs.until(lambda: _activity(record, instance) or not instance.pane.alive(), wait.timeout, _STEP)
    before = _activity(record, instance)
    if text:
        session.send_text(host, instance.folder, text)
        # An interface that takes fast input for a paste would take the Enter for a part of it.
        time.sleep(_PASTE_SECONDS * _slowness(instance) if keys else 0)
    if keys:
        session.send_keys(host, instance.folder, keys)
    since = time.monotonic() if text or keys else None

    def come() -> bool:
        if pattern is not None and not pattern.search(session.capture(host, instance.folder)):
            return False
        return not wait.idle or _is_idle(record, instance, before, since)

    found = True
    if pattern is not None or wait.idle:
        found = bool(procs.until(lambda: come() or not instance.pane.alive(), wait.timeout, _STEP)) and come()
    activity = _activity(record, instance)
    return {
        "screen": session.capture(host, instance.folder),
        "found": found,
        "alive": instance.pane.alive(),
        "activity": activity.status if activity else None,
    }


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern, re.MULTILINE) if pattern is not None else None
    except re.error as error:
        raise SandboxError(f"{shown(pattern)} is no regular expression: {error}.") from None


def _is_idle(record: Record, instance: Instance, before: usage.Activity | None, since: float | None) -> bool:
    """Whether the agent is idle, and has said so since `before`, where something was typed at the time `since`.

    What makes no work (a key, /clear) makes it say nothing anew: it is idle, too, when it has not begun for a while.
    """
    now = _activity(record, instance)
    if now is None or now.status != "idle":
        return False
    if since is None or before is None or now.mark != before.mark:
        return True
    return time.monotonic() - since > _BEGIN_SECONDS * _slowness(instance)


def _slowness(instance: Instance) -> int:
    return _EMULATED if instance.accelerator == "tcg" else 1


def _activity(record: Record, instance: Instance) -> usage.Activity | None:
    running = lifecycle.running(record, instance)
    pid = lifecycle.backend(running.spec).agent_pid(running)
    return usage.activity(f"{record.data}/{claude.SESSIONS}", pid) if pid else None


def activity_of(record: Record) -> usage.Activity | None:
    """What the agent of a running sandbox says that it does; None where it says nothing."""
    return _activity(record, live_instance(record))
