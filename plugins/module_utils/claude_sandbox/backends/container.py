# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The backend container: systemd-nspawn, of which root makes what this account asks for (see machines)."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .. import files, machines, namespaces, privileged, procs
from ..commands import Completed, Invocation
from ..errors import SandboxError, shown
from ..grants import DEVICE, READ_WRITE, Bind, own_mount
from ..host import Account, Host, Problem, missing
from ..machines import Mounted, Order
from ..privileged import Handler
from ..procs import Process, Usage
from ..spec import Spec
from ..toolchain import Toolchain
from .base import Command, Job, Running, exchanged, ordered

OWN_SCREEN = False
_PANE, _CODE = 4, 5
_PANE_PIPE, _STATUS = "pane", "status"
# Waits for the exit code, writes it down, and ends with it; the terminal is the container's meanwhile. That root writes
# to the pipe alone: what root writes to any other descriptor of ours could do what the account may not.
_WAIT = f'IFS= read -r code <&{_PANE} && echo "$code" >&{_CODE}; exit "${{code:-137}}"'
_START_SECONDS = 20.0
_STATUS_LIMIT = 16  # bytes
# What asks at the other end of a socket who is there, and has one answer only: the account itself.
_BY_ACCOUNT = ("x11", "wayland", "audio", "dbus", "gpu", "keyring", "ssh_agent")


def problems(host: Host, spec: Spec) -> list[Problem]:
    """Why systemd-nspawn cannot work on this host, or not as asked."""
    found = []
    if host.find("systemd-nspawn") is None:
        found.append(missing("systemd-nspawn"))
    if host.uid != 0 and not os.path.exists(privileged.HELPER):
        found.append(
            Problem(
                f"{host.account.name} is not root, and there is no {privileged.HELPER}.",
                "Run this as root, or let the role sandbox install the helper and its sudo rule.",
            )
        )
    elif host.uid != 0 and host.find("sudo") is None:
        found.append(missing("sudo"))
    found += [
        Problem(
            f"grants.{name} has no effect in a container with a user namespace of its own: "
            "there nobody takes it for the account.",
            "Take the grant away; or set container.user_namespace to false, where root may.",
        )
        for name in _BY_ACCOUNT
        if spec.grants.get(name) and user_namespace(spec)
    ]
    found += [
        Problem(f"env: {name} cannot be set in a container.", "Give the variable another name.")
        for name in machines.unusable(spec.env)
    ]
    found += [
        Problem(f"mounts: {shown(mount.target)} is what a container itself needs.", "Give the mount another target.")
        for mount in spec.mounts
        if machines.reserved(mount.target)
    ]
    return found


def user_namespace(spec: Spec) -> bool:
    """Whether the container has ids of its own, so that its root is not the host's."""
    return bool(spec.container.get("user_namespace", True))


def check(spec: Spec, owner: Account) -> None:
    """Of what the account can write, not all could be written from a container."""
    for bind in (Bind(spec.project_dir, spec.project_dir, READ_WRITE, checked=True), *map(own_mount, spec.mounts)):
        with contextlib.suppress(OSError):
            _check_owner(owner, spec, bind, os.stat(bind.source))


def handlers(owner: Account, trusted: bool) -> Mapping[str, Handler]:
    """What root does: everything with a container."""
    return {
        "start": lambda content, descriptors: machines.start(content, descriptors, owner, trusted),
        "stop": lambda content, _descriptors: machines.stop(content, owner),
        "execute": lambda content, _descriptors: machines.execute(content, owner),
        "enter": lambda content, descriptors: machines.interact(content, descriptors, owner),
        "exists": lambda content, _descriptors: machines.exists(content, owner),
        "mount": lambda content, descriptors: machines.add_mounts(content, descriptors, owner),
    }


def command(host: Host, spec: Spec, argv: Sequence[str], files: int) -> Command:
    """What waits in the pane while the container has its terminal."""
    return Command(("/bin/sh", "-c", _WAIT), (), {_CODE: _STATUS}, {_PANE: _PANE_PIPE})


def contents(job: Job) -> dict[int, bytes]:
    """The pane reads nothing."""
    return {}


def settle(host: Host, job: Job, pane: Process, release: Callable[[], None]) -> Process:
    """Have root make the container in the pane's terminal."""
    if privileged.connected():
        return _process(_order(job, pane))
    content = {"folder": job.folder, "pane": pane.__dict__, "display": job.display, "resumes": job.resumes}
    return _process(_sudo(host, "start", job.record, content))


def _process(content: Mapping[str, int]) -> Process:
    return Process(int(content["pid"]), int(content["start"]))


def _order(job: Job, pane: Process) -> Mapping[str, int]:
    for name in machines.unusable(job.env):
        raise SandboxError(f"The variable {name} cannot be set in a container.", "Give it another name.")
    binds = [bind for bind in ordered(job.binds) if bind.mode != DEVICE and not bind.target.startswith("/sys/")]
    with contextlib.ExitStack() as held:
        descriptors = [held.enter_context(_closing(each)) for each in _ends(job.folder, pane)]
        for bind in binds:
            _make_mount_point(bind, binds)
        opened = [held.enter_context(_closing(_opened(bind))) for bind in binds]
        for bind, descriptor in zip(binds, opened, strict=True):
            _check_owner(job.owner, job.spec, bind, os.fstat(descriptor))
        descriptors += opened
        mounted = tuple(
            Mounted(bind.source, bind.target, bind.mode == READ_WRITE, bind not in job.toolchain.binds)
            for bind in binds
        )
        order = Order(
            machine=machines.name_of(job.name, job.id),
            label=job.record,
            hostname=machines.host_name(job.name),
            network=job.spec.network,
            user_namespace=user_namespace(job.spec),
            mounts=mounted,
            links=job.toolchain.links,
            devices=tuple(bind.target for bind in job.binds if bind.mode == DEVICE),
            files=job.files,
            env=job.env,
            shell=job.toolchain.shell,
            argv=job.argv,
            cwd=job.spec.project_dir,
            pane=pane.pid,
            limits=job.spec.limits,
        )
        answer: Mapping[str, int] = privileged.ask("start", order.to_json(), descriptors)
        return answer


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _ends(folder: str, pane: Process) -> Iterator[int]:
    """The pane's terminal, and the pipe at which the pane waits."""
    if not procs.until(lambda: _waits(folder, pane) or not pane.alive(), _START_SECONDS):
        raise SandboxError("The session's shell did not come up.", "Try again.")
    try:
        # Of its standard input the shell makes the pipe while it reads.
        yield os.open(os.readlink(f"/proc/{pane.pid}/fd/2"), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        yield os.open(f"{folder}/{_PANE_PIPE}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError(f"The session ended while the sandbox started: {error.strerror}.", "Try again.") from None


def _waits(folder: str, pane: Process) -> bool:
    """Whether the pane's shell has come so far that the terminal can be taken from it."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pane.pid}/fd/{_PANE}") == f"{folder}/{_PANE_PIPE}"
    return False


def _opened(bind: Bind) -> int:
    """What is to be mounted, held open from here on: whatever is put in its place later is not what is mounted."""
    try:
        if not bind.checked:
            return os.open(bind.source, os.O_PATH | os.O_CLOEXEC)
        descriptor = namespaces.walked("/", bind.source)
    except OSError as error:
        raise SandboxError(f"{shown(bind.source)} cannot be mounted: {error.strerror}.", "Try again.") from None
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise exchanged(bind.source)
    return descriptor


def _check_owner(owner: Account, spec: Spec, bind: Bind, status: os.stat_result) -> None:
    """Of an account's rights, those by its uid, its own group and as anybody are all that it has in a container."""
    if not bind.checked or bind.mode != READ_WRITE or not user_namespace(spec):
        return
    whose = 0o200 if status.st_uid == owner.uid else 0o020 if status.st_gid == owner.gid else 0o002
    if not status.st_mode & whose and not _has_acl(bind.source):
        raise SandboxError(
            f"{shown(bind.source)} does not belong to {owner.name}, who could not write there in a container.",
            f"Change its owner to {owner.name}, or give the sandbox the user it belongs to.",
        )


def _has_acl(path: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.getxattr(path, "system.posix_acl_access"))
    return False


def _make_mount_point(bind: Bind, binds: Sequence[Bind]) -> None:
    """Make what is missing on the way to a mount that stands in another one: only the account may do so there."""
    above = [other for other in binds if bind.target.startswith(f"{other.target}/")]
    if not above:
        return
    nearest = max(above, key=lambda other: len(other.target))
    path = f"{nearest.source}{bind.target.removeprefix(nearest.target)}"
    with contextlib.suppress(OSError):
        if os.path.lexists(path):
            return
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        if os.path.isdir(bind.source):
            os.mkdir(path)
        else:
            files.create(path, b"")


def execute(host: Host, running: Running, invocation: Invocation) -> Completed:
    """Have root bring a command into the container, where it is the account's."""
    content = {"invocation": invocation.to_json()}
    # This process is one for the command alone: who is gone waits for no answer.
    namespaces.die_with_parent()
    done = _ask(host, running, "execute", content, None if invocation.timeout is None else invocation.timeout)
    return Completed.from_json(done)


def interact(host: Host, running: Running, invocation: Invocation, terminal: int | None) -> int:
    """The same in a terminal."""
    if terminal is None:
        raise SandboxError("A container is entered from a terminal.", "Run a command in it instead.")
    namespaces.die_with_parent()
    content = {"invocation": invocation.to_json()}
    if privileged.connected():
        machine = machines.name_of(running.name, running.id)
        return int(privileged.ask("enter", {"machine": machine, **content}, [terminal]))
    # sudo passes on no descriptor: whoever it starts opens the terminal by its name, as the account.
    return int(_sudo(host, "enter", running.record, {**content, "terminal": os.ttyname(terminal)}, None))


def exists(host: Host, running: Running, path: str) -> bool:
    """Whether a path exists, as the account sees it inside."""
    return bool(_ask(host, running, "exists", {"path": path}))


def add_mounts(host: Host, running: Running, added: Sequence[Bind], binds: Sequence[Bind]) -> None:
    """Have root mount something more. binds: all that the sandbox has then. Raises SandboxError; then nothing is."""
    if not privileged.connected():
        content = [bind.__dict__ for bind in added]
        _sudo(host, "mount", running.record, {"added": content, "binds": [bind.__dict__ for bind in binds]})
        return
    with contextlib.ExitStack() as held:
        descriptors = []
        for bind in added:
            _make_mount_point(bind, binds)
            descriptors.append(held.enter_context(_closing(_opened(bind))))
            _check_owner(running.owner, running.spec, bind, os.fstat(descriptors[-1]))
        wanted = [Mounted(bind.source, bind.target, bind.mode == READ_WRITE, own=True).__dict__ for bind in added]
        machine = machines.name_of(running.name, running.id)
        privileged.ask("mount", {"machine": machine, "mounts": wanted}, descriptors)


def end(host: Host, running: Running, grace: float) -> None:
    """Have root end the container."""
    if not privileged.connected() and running.instance is None:
        # One that nobody could start is to be removed all the same.
        machine = machines.name_of(running.name, running.id)
        if not procs.with_word(f"--machine={machine}", uid=0):
            return
    _ask(host, running, "stop", {"grace": grace})


def _ask(
    host: Host, running: Running, operation: str, content: Mapping[str, object], seconds: float | None = 30.0
) -> Any:
    if privileged.connected():
        return privileged.ask(operation, {"machine": machines.name_of(running.name, running.id), **content})
    return _sudo(host, operation, running.record, content, seconds)


def _sudo(host: Host, operation: str, record: str, content: Mapping[str, object], seconds: float | None = 60.0) -> Any:
    return privileged.by_sudo(host.need("sudo"), operation, record, content, seconds)


def agent_pid(running: Running) -> int | None:
    """The pid that the agent has inside."""
    agent = next(iter(machines.programs(running.init)), None)
    return procs.innermost_pid(agent.pid) if agent else None


def usage(running: Running) -> Usage:
    """What the container's processes use: those that its first process is an ancestor of."""
    return procs.usages([running.init.pid])[running.init.pid]


def why_dead(folder: str) -> str | None:
    """It ends with its program."""
    return None


def own_grants(spec: Spec, toolchain: Toolchain) -> tuple[str, ...]:
    """All that it has is the host's."""
    return ()


def accelerator(spec: Spec) -> tuple[str, str] | None:
    """Its processor is the host's."""
    return None


def frame(running: Running) -> bytes:
    """Its screen is an X server of the host's."""
    raise SandboxError(f"Sandbox {shown(running.name)} has no screen of its own.")


def exit_code(folder: str) -> int | None:
    """The program's exit code, as the container ended with it."""
    file = files.open_regular(f"{folder}/{_STATUS}", own=2)
    if file is None:
        return None
    with file:
        text = file.read(_STATUS_LIMIT).strip()
    return int(text) if text.isdigit() else None
