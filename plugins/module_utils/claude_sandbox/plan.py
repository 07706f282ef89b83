# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Observed and asked for → what to do. Pure: check mode shows this plan, and a run carries it out."""

from __future__ import annotations

import dataclasses

from .errors import ConflictError, SandboxError, shown
from .spec import LIVE, NEXT_START, RECREATE, Difference, Spec, differences

RUNNING, STOPPED, DEAD, ABSENT = "running", "stopped", "dead", "absent"
STATES = ("started", "stopped", "restarted", "absent")
ON_CHANGE = ("fail", "restart", "ignore")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Actions in the order in which they are carried out: update, mount, limit, create, stop, start, destroy.

    differences: what is asked for otherwise than recorded, whether or not an action follows.
    """

    actions: tuple[str, ...]
    differences: tuple[Difference, ...] = ()


def make(
    name: str,
    state: str,
    status: str,
    recorded: Spec | None,
    desired: Spec | None,
    on_change: str = "fail",
    secrets_differ: bool = False,
    scoped: bool = False,
) -> Plan:
    """What brings a sandbox from its status to the state asked for.

    desired: None stands for "as recorded". scoped: whether what runs has a scope, by which it can be limited.
    Raises SandboxError where a change would need what `on_change` does not allow.
    """
    if state == "absent":
        return Plan(() if status == ABSENT else ("destroy",))
    if state == "stopped":
        # One that has ended by itself still has its session and its display.
        return Plan(("stop",) if status in (RUNNING, DEAD) else ())
    if recorded is None:
        if desired is None:
            raise SandboxError(f"There is no sandbox {shown(name)}.", "Give project_dir to make it.")
        return Plan(("create", "start"))
    found = tuple(differences(recorded, desired)) if desired is not None else ()
    return Plan(_to_running(name, state, status, found, on_change, secrets_differ, recorded.backend, scoped), found)


def _to_running(
    name: str,
    state: str,
    status: str,
    found: tuple[Difference, ...],
    on_change: str,
    secrets_differ: bool,
    backend: str,
    scoped: bool,
) -> tuple[str, ...]:
    applied = () if on_change == "ignore" else found
    if any(difference.apply == RECREATE for difference in applied):
        if on_change == "fail":
            raise _refused(name, [d for d in applied if d.apply == RECREATE], "needs another sandbox in its place")
        return ("destroy", "create", "start")
    update = ("update",) if applied or secrets_differ else ()
    if status != RUNNING:
        return (*update, "start")
    live = [difference for difference in applied if _is_live(difference, backend, scoped)]
    waiting = [difference for difference in applied if difference.apply != NEXT_START and difference not in live]
    if state == "started" and waiting and on_change == "fail":
        raise _refused(name, waiting, "needs a restart, which ends what the agent is doing")
    if state == "restarted" or waiting:
        return (*update, "stop", "start")
    # What cannot be done is not recorded.
    found_live = {"limit" if difference.apply == LIVE else "mount" for difference in live}
    return (*sorted(found_live, reverse=True), *update)


def _is_live(difference: Difference, backend: str, scoped: bool) -> bool:
    """Whether a change reaches a sandbox that runs: other limits, or a mount more in a container."""
    if difference.apply == LIVE:
        return scoped
    if backend != "container" or difference.field != "mounts":
        return False
    return all(mount in difference.after for mount in difference.before)


def _refused(name: str, found: list[Difference], why: str) -> SandboxError:
    fields = ", ".join(f"{d.field} ({shown(d.before)} → {shown(d.after)})" for d in found)
    return ConflictError(
        f"Sandbox {shown(name)} exists with other settings, and the change {why}: {fields}.",
        "Set on_change to restart to allow it, or to ignore to keep what is recorded.",
    )
