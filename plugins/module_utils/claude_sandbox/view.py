# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A sandbox as every door shows it."""

from __future__ import annotations

import shlex
import time
from typing import Any

from . import plan
from .host import Host
from .instance import SESSION, Instance, launch_folder
from .registry import Record


def of(host: Host, record: Record, status: str) -> dict[str, Any]:
    """The sandbox's fields. Starts no process."""
    spec, instance = record.asked(), record.instance
    live = instance if status == plan.RUNNING else None
    # A dead sandbox keeps its session, with the last screen, until it is stopped or started again.
    kept = instance if instance and not instance.foreground and status in (plan.RUNNING, plan.DEAD) else None
    view: dict[str, Any] = {
        "id": record.id,
        "name": record.name,
        "status": status,
        **spec.to_dict(),
        "created_at": _iso(record.created_at),
        "started_at": _iso(instance.started_at) if instance else None,
        "stopped_at": _iso(instance.stopped_at) if instance else None,
        "exit_code": None,
        "pid": live.init.pid if live else None,
        "pid_xvfb": live.xvfb.pid if live and live.xvfb else None,
        "display_num": live.display if live else None,
        "tmux_session": SESSION if kept else None,
        "tmux_socket": kept.socket if kept else None,
        "qemu_qmp_socket": _monitor(live) if live and spec.backend == "vm" else None,
        "scope": live.scope.partition("/")[2] or None if live else None,
        "accelerator": live.accelerator if live else None,
        "reason": None,
        "attach_command": attach_command(host, record, kept) if kept else None,
        "log": record.log,
        "given": list(instance.given) if instance else [],
        "skipped": dict(instance.skipped) if instance else {},
    }
    if instance and status == plan.DEAD:
        from . import lifecycle

        view["exit_code"] = lifecycle.exit_code(spec, instance)
        view["reason"] = lifecycle.why_dead(spec, instance)
    elif instance and status == plan.STOPPED:
        view["exit_code"] = instance.exit_code
    return view


def _monitor(instance: Instance) -> str:
    from .backends import vm

    return vm.monitor(launch_folder(instance.folder))


def attach_command(host: Host, record: Record, instance: Instance) -> str:
    """What a person types on this host to see the session; MANAGER_ATTACH names a program for that."""
    program = host.environ.get("MANAGER_ATTACH")
    if program:
        return shlex.join([*shlex.split(program), record.name])
    argv = ["env", "-u", "TMUX", host.find("tmux") or "tmux", "-S", instance.socket, "attach", "-t", SESSION]
    user = record.asked().user
    if host.uid == 0 and user not in (None, "root"):
        # runuser is there where sudo is not, but only root can use it.
        argv = [*(("sudo", "-u", str(user)) if host.find("sudo") else ("runuser", "-u", str(user), "--")), *argv]
    return shlex.join(argv)


def _iso(seconds: float | None) -> str | None:
    """Seconds since the epoch, as ISO 8601 in UTC, to the millisecond."""
    if seconds is None:
        return None
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}+00:00"
