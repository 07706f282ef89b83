# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The backend bubblewrap: namespaces of the shared kernel, made without root."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence

from .. import commands, files, landlock, namespaces, procs, seccomp
from ..commands import Completed, Invocation
from ..errors import SandboxError, shown
from ..host import Account, Host, Problem, apparmor_restricts_namespaces, missing, user_namespaces
from ..privileged import Handler
from ..procs import Process, Usage
from ..spec import Spec
from ..toolchain import Toolchain
from .base import Command, Job, Running, check_mounts, ordered

OWN_SCREEN = False
_ARGS, _STATUS, _GATE, _FILTER, _FIRST_FILE = 3, 4, 5, 6, 7
_FLAGS = {"ro": "--ro-bind", "rw": "--bind", "dev": "--dev-bind"}
_STATUS_LIMIT = 65536  # bytes
_START_SECONDS = 20.0
_END_SECONDS = 1.0
_PROC_HIDDEN = ("keys", "key-users")
_PROC_HIDDEN_FROM_ROOT = (
    "config.gz",
    "kallsyms",
    "kcore",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "mtrr",
    "pagetypeinfo",
    "sched_debug",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
)
_PROC_READ_ONLY_FOR_ROOT = ("acpi", "bus", "driver", "fs", "irq", "scsi", "sys")
_MOST_FILES = 3


def problems(host: Host, spec: Spec) -> list[Problem]:
    """Why bubblewrap cannot work on this host."""
    found = []
    bwrap = host.find("bwrap")
    if bwrap is None:
        found.append(missing("bwrap"))
    namespace = user_namespaces()
    if namespace is not None:
        found.append(namespace)
    elif bwrap and apparmor_restricts_namespaces() and not _works(bwrap):
        found.append(
            Problem(
                f"AppArmor keeps {bwrap} from user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1).",
                f"Give {bwrap} an AppArmor profile with `userns,` (the role sandbox does so).",
            )
        )
    return found


def _works(bwrap: str) -> bool:
    probe = [bwrap, "--unshare-all", "--ro-bind", "/", "/", "true"]
    return subprocess.run(probe, capture_output=True, check=False, timeout=30).returncode == 0


def check(spec: Spec, owner: Account) -> None:
    """Whatever the account can use, it can use here."""


def handlers(owner: Account, trusted: bool) -> Mapping[str, Handler]:
    """Nothing of it needs root."""
    return {}


def command(host: Host, spec: Spec, argv: Sequence[str], files: int) -> Command:
    """bwrap; every option goes through --args, so that ps shows none of them."""
    if files > _MOST_FILES:
        raise ValueError(
            f"{files} files are more than descriptors of one digit, which is all that every shell can open"
        )
    calls = (_FILTER,) if seccomp.program(os.uname().machine) is not None else ()
    inputs = (_ARGS, *calls, *range(_FIRST_FILE, _FIRST_FILE + files))
    return Command(
        (host.need("bwrap"), "--args", str(_ARGS), "--", *argv), inputs, {_STATUS: "status"}, {_GATE: "gate"}
    )


def contents(job: Job) -> dict[int, bytes]:
    """The options, the filter of system calls, and the files."""
    found: dict[int, bytes] = {}
    options = list(_options(job))
    for number, (path, content) in enumerate(job.files.items(), _FIRST_FILE):
        found[number] = content
        options += ["--perms", "0600", "--file", str(number), path]
    # bwrap makes the folders on the way to a mount, and the root is its own: nothing more is made there.
    options += ["--remount-ro", "/"]
    options += ["--json-status-fd", str(_STATUS), "--block-fd", str(_GATE)]
    calls = seccomp.program(os.uname().machine)
    if calls is not None:
        options += ["--seccomp", str(_FILTER)]
        found[_FILTER] = calls
    return {_ARGS: b"".join(option.encode() + b"\0" for option in options), **found}


def _options(job: Job) -> Iterator[str]:
    yield from ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    if not job.spec.network:
        yield "--unshare-net"
    yield from ("--die-with-parent", "--cap-drop", "ALL", "--hostname", job.name, "--clearenv")
    for key, value in job.env.items():
        yield from ("--setenv", key, value)
    yield from ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm")
    yield from ("--tmpfs", "/home", "--perms", "0700", "--tmpfs", job.owner.home)
    yield from ("--perms", "0700", "--tmpfs", f"/run/user/{job.owner.uid}")
    for path, points_to in job.toolchain.links:
        yield from ("--symlink", points_to, path)
    for bind in ordered(job.binds):
        yield from (_FLAGS[bind.mode], bind.source, bind.target)
    for path, is_folder in job.masks:
        yield from ("--tmpfs", path) if is_folder else ("--ro-bind", "/dev/null", path)
    yield from _proc_masks(job.owner.uid)
    yield from ("--chdir", job.spec.project_dir)


def _proc_masks(uid: int) -> Iterator[str]:
    """Hide what of /proc is the host's: names of keys from all, and from root what its mere uid opens."""
    hidden = _PROC_HIDDEN if uid else (*_PROC_HIDDEN, *_PROC_HIDDEN_FROM_ROOT)
    for name in hidden:
        if os.path.exists(f"/proc/{name}"):
            # A device file on a mount of a user namespace cannot be opened.
            yield from ("--ro-bind", "/dev/null", f"/proc/{name}")
    for name in () if uid else _PROC_READ_ONLY_FOR_ROOT:
        if os.path.exists(f"/proc/{name}"):
            yield from ("--ro-bind", f"/proc/{name}", f"/proc/{name}")


def settle(host: Host, job: Job, pane: Process, release: Callable[[], None]) -> Process:
    """Let the program go once the mounts are what was meant, and see it run."""
    init = procs.until(lambda: _ready(job, pane), _START_SECONDS)
    if not isinstance(init, Process):
        raise SandboxError("bubblewrap could not make the sandbox.")
    check_mounts(init, ((bind, bind.target) for bind in job.binds))
    release()
    if not procs.until(lambda: _runs(init) or not pane.alive(), _START_SECONDS):
        raise SandboxError("The agent's program did not start.")
    if not pane.alive() and exit_code(job.folder) is None:
        # bwrap reports the exit code of a program only where it could execute it.
        raise SandboxError(
            f"The agent's program {shown(job.spec.agent[0])} could not be executed in the sandbox.",
            "Give one that is there: of the system's own, or in the project.",
        )
    return init


def _ready(job: Job, pane: Process) -> Process | bool:
    """The first process, once it stands at the gate in its finished root; True when all is over."""
    pid = status(job.folder).get("child-pid")
    init = procs.identify(pid) if isinstance(pid, int) else None
    if init is not None and _root_stands(init, job):
        return init
    return not pane.alive()


def _root_stands(init: Process, job: Job) -> bool:
    try:
        inside = os.stat(f"/proc/{init.pid}/root")
        os.lstat(f"/proc/{init.pid}/root{job.spec.project_dir}")
    except OSError:
        return False
    outside = os.stat("/")
    return (inside.st_dev, inside.st_ino) != (outside.st_dev, outside.st_ino)


def _runs(init: Process) -> bool:
    """Whether the program runs: bwrap's own first process forks, then executes it."""
    return any(procs.command_name(child.pid) != "bwrap" for child in procs.children(init.pid))


def execute(host: Host, running: Running, invocation: Invocation) -> Completed:
    """Run a command beside the agent: a process joins the namespaces, and gives up all that the agent has not."""
    return commands.run(invocation, _entrance(running.init))


def interact(host: Host, running: Running, invocation: Invocation, terminal: int | None) -> int:
    """The same in a terminal, or with the streams of this process."""
    return commands.run_in_terminal(invocation, _entrance(running.init), terminal)


def _entrance(init: Process) -> Callable[[], None]:
    calls = seccomp.program(os.uname().machine)

    def enter() -> None:
        namespaces.join(init.pid)
        landlock.confine()
        namespaces.give_up_privileges(calls)

    return enter


def exists(host: Host, running: Running, path: str) -> bool:
    """Whether a path exists, as seen from inside."""
    init = running.init

    def look() -> bool:
        # From here on nothing is imported: Python would look for it in the sandbox.
        namespaces.join(init.pid)
        return os.path.lexists(path)

    return bool(procs.fork(None, look).result())


def end(host: Host, running: Running, grace: float) -> None:
    """Ask the program to end, then end the first process: the kernel ends all others of its pid namespace with it."""
    instance = running.instance
    if instance is None or not instance.init.alive():
        return
    for process in procs.children(instance.init.pid):
        # A shell at its prompt ignores TERM, and takes the loss of its terminal for its end.
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGHUP)
    if not instance.pane.wait(grace):
        instance.init.signal(signal.SIGKILL)
        instance.pane.wait(_END_SECONDS)


def agent_pid(running: Running) -> int | None:
    """The pid that the agent, which bwrap's first process started, has inside."""
    agent = next(iter(procs.children(running.init.pid)), None)
    return procs.innermost_pid(agent.pid) if agent else None


def usage(running: Running) -> Usage:
    """What its first process uses, with all that descend from it."""
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
    """bwrap's own report of the program's exit code (128 and the signal, where one ended it)."""
    code = status(folder).get("exit-code")
    return code if isinstance(code, int) else None


def status(folder: str) -> dict[str, object]:
    """What bwrap has reported so far: one JSON object a line, the last of which may be unfinished."""
    result: dict[str, object] = {}
    file = files.open_regular(f"{folder}/status", own=2)
    if file is None:
        return result
    with file:
        lines = file.read(_STATUS_LIMIT).splitlines(keepends=True)
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            result |= content if isinstance(content, dict) else {}
    return result
