# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A scope of systemd's for each sandbox: apart from the unit of whoever made it, and with the limits asked for.

Root has the system's manager make it, also for a child that became the sandbox's account. Another account asks its own
user manager, once it lingers: one that does not ends at the last logout, with all that it has. Where that cannot keep a
limit (cgroup v1, or a controller that it was not given) the helper that sudo lets it run does it (see helper.py).
Without systemd there is no scope, and no limit.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import cgroups, limits, machines, privileged, procs
from .errors import SandboxError
from .host import Account, Host, Problem, missing
from .privileged import Handler
from .procs import Process
from .spec import Spec

SYSTEM, USER = "system", "user"
# Not with a dash, which would make it a part of another one.
_SLICE = "claude_sandbox.slice"
_ID = re.compile(r"[0-9a-f]{8,64}\Z")
_SECONDS = 10.0
_STOP_MICROSECONDS = 10_000_000  # between asking and ending, when the host is shut down
_SETTLING_SECONDS = 2.0  # from when systemd has agreed to a limit until the kernel shows it, at most
_LINGER = "/var/lib/systemd/linger"
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


@dataclasses.dataclass(frozen=True)
class Scoped:
    """What a scope is made of, or changed for.

    id: the sandbox's. machine: the name of its container, where it has one that runs.
    """

    id: str
    limits: Mapping[str, Any]
    processes: tuple[Process, ...] = ()
    machine: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return dataclasses.asdict(self)

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Scoped:
        """From its JSON, checked. Raises KeyError, TypeError or ValueError where it is none."""
        identity, asked = content["id"], content["limits"]
        if not isinstance(identity, str) or not _ID.match(identity):
            raise ValueError("this is no id")
        processes = tuple(Process(int(each["pid"]), int(each["start"])) for each in content["processes"])
        return cls(identity, machines.checked_limits(asked), processes, str(content["machine"]))


def booted() -> bool:
    """Whether systemd is this host's first process, sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def unit_name(uid: int, identity: str) -> str:
    """What the scope of a sandbox is called."""
    return f"claude-sandbox-{uid}-{identity}.scope"


def problems(host: Host, spec: Spec, owner: Account) -> list[Problem]:
    """Why this host cannot keep the limits asked for, and what mends it."""
    names = limits.wanted(spec.limits)
    if not names:
        return []
    if not booted():
        return [Problem("limits need systemd, and this host runs without it.", "Leave limits out.")]
    if host.find("busctl") is None:
        return [missing("busctl")]
    if os.geteuid() == 0 or privileged.connected() or _has_helper(host):
        return []
    if not _stays(owner):
        return [
            Problem(
                f"limits need {owner.name}'s own systemd, and that does not run without a login.",
                f"As root: loginctl enable-linger {owner.name}",
            )
        ]
    lacking = sorted(name for name in names if limits.CONTROLLERS[name] not in _delegated(owner.uid))
    if not lacking:
        return []
    return [
        Problem(
            f"limits: {owner.name}'s own systemd has no say over {', '.join(lacking)}.",
            "Run this as root, or let the role sandbox give it one (claude_sandbox_linger_users).",
        )
    ]


def place(host: Host, owner: Account, task: Scoped, record: str) -> str:
    """Put processes into a scope of their own: SYSTEM/UNIT or USER/UNIT; "" where it takes no scope to run.

    record: the folder of the sandbox. Raises SandboxError where a limit asked for is not kept.
    """
    names, unit = limits.wanted(task.limits), unit_name(owner.uid, task.id)
    if not booted() or host.find("busctl") is None:
        if names:
            raise SandboxError("limits need systemd, and this host runs without it.", "Leave limits out.")
        return ""
    if privileged.connected():
        privileged.ask("scope", task.to_json())
        return f"{SYSTEM}/{unit}"
    if os.geteuid() == 0:
        _place_by_system(task, owner)
        return f"{SYSTEM}/{unit}"
    if _stays(owner) and {limits.CONTROLLERS[name] for name in names} <= _delegated(owner.uid):
        _start(_user_bus(host, owner), task, owner)
        return f"{USER}/{unit}"
    if names:
        privileged.by_sudo(host.need("sudo"), "scope", record, task.to_json(), _SECONDS)
        return f"{SYSTEM}/{unit}"
    return ""


def change(host: Host, owner: Account, placed: str, task: Scoped, record: str) -> None:
    """Have a sandbox that runs keep other limits, from now on. Raises SandboxError where one of them is not kept.

    placed: what `place` has returned.
    """
    manager, _slash, unit = placed.partition("/")
    if manager == USER:
        _set(_user_bus(host, owner), unit, task)
    elif privileged.connected():
        privileged.ask("limit", task.to_json())
    elif os.geteuid() == 0:
        _change_by_system(task, owner)
    else:
        privileged.by_sudo(host.need("sudo"), "limit", record, task.to_json(), _SECONDS)


def join(host: Host, owner: Account, placed: str, member: Process, record: str) -> None:
    """Put this process into the scope of one that is in there, so that the limits count for it, too."""
    manager, _slash, unit = placed.partition("/")
    if manager == USER:
        _call(_user_bus(host, owner), "AttachProcessesToUnit", "ssau", unit, "", "1", str(os.getpid()))
    elif os.geteuid() == 0:
        cgroups.join(member.pid)
    else:
        us = procs.identify(os.getpid()) or Process(os.getpid(), 0)
        content = {"process": us.__dict__, "member": member.__dict__}
        if privileged.connected():
            privileged.ask("join", content)
        else:
            privileged.by_sudo(host.need("sudo"), "join", record, content, _SECONDS)


def handlers(owner: Account) -> Mapping[str, Handler]:
    """What root does on request of a sandbox's account (see privileged.serving)."""
    if not booted():
        return {}
    return {
        "scope": lambda content, _descriptors: _place_by_system(Scoped.parse(content), owner),
        "limit": lambda content, _descriptors: _change_by_system(Scoped.parse(content), owner),
        "join": lambda content, _descriptors: _joined(content, owner),
    }


def _has_helper(host: Host) -> bool:
    return os.path.exists(privileged.HELPER) and host.find("sudo") is not None


def _bus(uid: int) -> str:
    return f"/run/user/{uid}/bus"


def _stays(owner: Account) -> bool:
    """Whether the account's user manager runs, and goes on when the account logs out."""
    return os.path.exists(_bus(owner.uid)) and os.path.exists(f"{_LINGER}/{owner.name}")


def _delegated(uid: int) -> set[str]:
    """The controllers that the account's user manager may use: none where there are several hierarchies."""
    path = f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers"
    try:
        with open(path, encoding="ascii") as file:
            return set(file.read().split())
    except OSError:
        return set()


Caller = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def _caller(busctl: str, environ: Mapping[str, str], *options: str) -> Caller:
    def call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [busctl, *options, "--quiet", "call", *_MANAGER, *words],
            env=dict(environ),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_SECONDS,
        )

    return call


def _system_bus() -> Caller:
    # Never by the PATH of whoever asks.
    host = Host({}, 0)
    return _caller(host.need("busctl"), {"PATH": host.path})


def _user_bus(host: Host, owner: Account) -> Caller:
    environ = {"PATH": host.path, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={_bus(owner.uid)}"}
    environ["XDG_RUNTIME_DIR"] = f"/run/user/{owner.uid}"
    return _caller(host.need("busctl"), environ, "--user")


def _call(bus: Caller, method: str, *words: str) -> None:
    try:
        done = bus([method, *words])
    except subprocess.TimeoutExpired:
        raise SandboxError("systemd did not answer.", "See `systemctl status`, and try again.") from None
    if done.returncode:
        raise SandboxError(f"systemd refused it: {done.stderr.strip().removeprefix('Call failed: ')}")


def _place_by_system(task: Scoped, owner: Account) -> None:
    for process in task.processes:
        _check_owner(process, owner)
    _start(_system_bus(), task, owner, ("Slice", "s", _SLICE))


def _check_owner(process: Process, owner: Account) -> None:
    """Whether a process is the account's own. Raises SandboxError where it is another's."""
    uids = procs.uids(process.pid)
    if uids is not None and uids != {owner.uid} and process.alive():
        raise SandboxError(f"Process {process.pid} is not {owner.name}'s.")


def _start(bus: Caller, task: Scoped, owner: Account, *more: tuple[str, str, str]) -> None:
    unit = unit_name(owner.uid, task.id)
    living = [process for process in task.processes if process.alive()]
    if not living:
        return
    try:
        _start_for(bus, unit, living, task, *more)
    except SandboxError:
        # One of them may have ended in between, and then there is no scope for the others either.
        if all(process.alive() for process in living):
            raise
        _start(bus, task, owner, *more)


def _start_for(bus: Caller, unit: str, living: Sequence[Process], task: Scoped, *more: tuple[str, str, str]) -> None:
    values: list[tuple[str, ...]] = [
        ("Description", "s", "A sandbox of claude_code.nix_sandbox"),
        ("CollectMode", "s", "inactive-or-failed"),
        # Of a group that has too little memory, what the kernel ends is enough: the agent can go on.
        ("Delegate", "b", "true"),
        ("SendSIGHUP", "b", "true"),
        ("TimeoutStopUSec", "t", str(_STOP_MICROSECONDS)),
        ("PIDs", "au", str(len(living)), *(str(process.pid) for process in living)),
        *more,
    ]
    wanted = limits.wanted(task.limits)
    if wanted:
        values += [(name, kind, str(value)) for name, kind, value in limits.properties(task.limits)]
    words = [word for value in values for word in value]
    _call(bus, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", str(len(values)), *words, "0")
    first = living[-1]
    if not procs.until(lambda: cgroups.unit(first.pid, ".scope") == unit or not first.alive(), _SECONDS):
        raise SandboxError(f"systemd did not put the sandbox into {unit}.", "See `journalctl -b`, and try again.")
    _check(first, unit, task)


def _check(process: Process, unit: str, task: Scoped, seconds: float = 0.0) -> None:
    """Look at what the kernel itself says. Raises SandboxError where a limit is not kept within some seconds."""

    def read(controller: str, name: str) -> str | None:
        return cgroups.setting(process.pid, unit, controller, name)

    procs.until(lambda: not limits.unkept(task.limits, read) or not process.alive(), seconds)
    broken = limits.unkept(task.limits, read)
    if "io_weight" in limits.wanted(task.limits) and "io_weight" not in broken and not cgroups.disks_have_weights():
        broken.append("io_weight")
    if broken and process.alive():
        raise SandboxError(
            f"limits: this host does not keep {', '.join(broken)}.",
            "Leave it out, or see in docs/fleet.md which hosts do.",
        )


def _set(bus: Caller, unit: str, task: Scoped, member: Process | None = None) -> None:
    values = limits.properties(task.limits)
    words = [word for name, kind, value in values for word in (name, kind, str(value))]
    _call(bus, "SetUnitProperties", "sba(sv)", unit, "true", str(len(values)), *words)
    for process in (*task.processes, *([member] if member else [])):
        if cgroups.unit(process.pid, ".scope") == unit:
            # systemd answers first, and tells the kernel then.
            _check(process, unit, task, _SETTLING_SECONDS)


def _change_by_system(task: Scoped, owner: Account) -> None:
    _set(_system_bus(), unit_name(owner.uid, task.id), task)
    if task.machine:
        init = machines.init_of(owner, task.machine)
        unit = cgroups.unit(init.pid, ".scope")
        if unit is not None and unit.startswith("machine-"):
            _set(_system_bus(), unit, task, init)


def _joined(content: Mapping[str, Any], owner: Account) -> None:
    """Put a process of the account's where another one of its sandbox's is."""
    moved, member = (Process(int(content[key]["pid"]), int(content[key]["start"])) for key in ("process", "member"))
    for process in (moved, member):
        _check_owner(process, owner)
    unit = cgroups.unit(member.pid, ".scope") or ""
    if not unit.startswith(f"claude-sandbox-{owner.uid}-") or not moved.alive():
        raise SandboxError("This process is in no sandbox.")
    cgroups.join(member.pid, moved.pid)
