# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starting and stopping what a sandbox is made of. Runs under the sandbox's own account."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from . import agent, claude, display, files, grants, procs, session, toolchain
from .backends.base import Command, Job
from .errors import SandboxError, shown
from .grants import READ_WRITE, Bind
from .host import Account, Host, boot_id, group_name, user_namespaces
from .instance import Instance, socket
from .procs import Process
from .registry import Record, remove_tree
from .spec import Spec

_AGENT_GRACE = 0.5  # seconds between asking the agent to end and ending it
_SERVER_GRACE = 1.0
_LAST_LINES = 6
_COPY_LIMIT = 4 << 20  # bytes of a settings file
# Directories that hold the system or everybody's files; their subdirectories can be projects.
_NO_PROJECT = frozenset(
    "/ /bin /boot /dev /etc /home /lib /lib64 /mnt /nix /opt /proc /root /run /sbin /srv /sys /tmp /usr /var".split()
)
_NO_PROJECT_BELOW = ("/proc", "/sys", "/dev")


@dataclasses.dataclass(frozen=True)
class Start:
    """All that is needed to start a sandbox once.

    folder: the runtime folder, which exists and is empty. store: the project's folder.
    resumes: whether this is not the first start, so that a conversation can be continued.
    state_dir: of the registry, where preflight is still to be done.
    """

    record: Record
    owner: Account
    folder: str
    store: str
    secrets: Mapping[str, str]
    resumes: bool
    state_dir: str = ""


def backend(spec: Spec) -> ModuleType:
    """The chosen backend (see backends.base.Backend); only that one is imported."""
    from .backends import bubblewrap

    return bubblewrap


def as_owner(
    host: Host, owner: Account, spec: Spec | None, function: Callable[[], Any], *, always_fork: bool = False
) -> Any:
    """The function's value, worked out under the sandbox's account, in a child where that is another one.

    always_fork: for what changes its process for good, or must be the only thread.
    """
    # Everything is imported before: that account may not be able to read what we were started from.
    if spec is not None:
        backend(spec)
    if owner.uid != host.uid:
        return procs.fork(owner, function).result()
    return procs.fork(None, function).result() if always_fork else function()


def preflight(host: Host, spec: Spec, owner: Account, state_dir: str) -> None:
    """Look whether the sandbox could start, and change nothing. Raises SandboxError with the first thing in the way."""
    for problem in backend(spec).problems(host, spec):
        raise SandboxError(problem.what, problem.hint)
    host.need("tmux")
    if spec.granted("display"):
        host.need("Xvfb")
    check_project(spec.project_dir, owner, state_dir)
    for mount in spec.mounts:
        _check_source("mounts:", mount.source, state_dir)
        _check_target(mount.target, owner)
    toolchain.agent_argv(spec, toolchain.find(spec), owner)


def check_project(path: str, owner: Account, state_dir: str) -> None:
    """Whether a path can be a project of this account."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SandboxError(
            f"project_dir {shown(path)}: {error.strerror}.", f"Create it, and let {owner.name} read and write it."
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise SandboxError(f"project_dir {shown(path)} is not a directory.", "Give the directory that holds it.")
    _check_source("project_dir", path, state_dir)
    above_home = f"{owner.home}/".startswith(f"{path}/")
    if path in _NO_PROJECT or above_home or path.startswith(tuple(f"{top}/" for top in _NO_PROJECT_BELOW)):
        what = "the home directory itself or above it" if above_home else "a directory of the system"
        raise SandboxError(f"project_dir {shown(path)} is {what}.", "Give a directory of the project's own.")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise SandboxError(
            f"{owner.name} cannot read and write project_dir {shown(path)}.",
            f"Change its owner to {owner.name}, or give another user.",
        )


def _check_source(what: str, path: str, state_dir: str) -> None:
    real = os.path.realpath(path)
    if real != path:
        raise SandboxError(f"{what} {shown(path)} is, or goes through, a symbolic link.", f"Give {shown(real)} itself.")
    if f"{os.path.realpath(state_dir)}/".startswith(f"{path}/"):
        raise SandboxError(
            f"{what} {shown(path)} holds the registry of sandboxes ({state_dir}).", "Give another directory."
        )


def _check_target(target: str, owner: Account) -> None:
    """What a sandbox gets as a copy would be written through a mount at that place or above it, into the host's."""
    for path in agent.places_of_files(owner):
        if f"{path}/".startswith(f"{target}/"):
            raise SandboxError(
                f"mounts: {shown(target)} is, or holds, {path}, which every sandbox has of its own.",
                "Give the mount another target.",
            )


def start(host: Host, task: Start) -> Instance:
    """Bring the sandbox up. Raises SandboxError, and leaves nothing behind then."""
    spec, owner, folder = task.record.asked(), task.owner, task.folder
    if task.state_dir:
        preflight(host, spec, owner, task.state_dir)
    shared = spec.granted("claude")
    with contextlib.ExitStack() as undo:
        undo.callback(sweep, folder, owner)
        _prepare(task, shared)
        # The X server and tmux come up side by side; what the sandbox gets is worked out meanwhile.
        starting = _display(host, task, undo)
        tools = toolchain.find(spec)
        program, agent_binds = toolchain.agent_argv(spec, tools, owner)
        argv = [*program, *agent.arguments(spec, _resumes(task, shared))]
        files_inside = agent.files_inside(spec, owner, group_name(owner.gid), shared, task.secrets)
        ways = backend(spec)
        command: Command = ways.command(host, argv, len(files_inside))
        with session.Pipes(folder, command) as pipes:
            opening = session.Opening(host, folder, task.record.log, task.record.name, command)
            screen = starting.ready() if starting else None
            place = _place(host, task, screen)
            granted = _without_missing(grants.resolve(spec, place, _readable))
            binds = (*tools.binds, *agent_binds, *granted.binds)
            _clear_ways(task, binds)
            env = agent.environment(spec, task.record.name, owner, place, tools, granted)
            job = Job(
                name=task.record.name,
                spec=spec,
                owner=owner,
                toolchain=tools,
                binds=binds,
                env=env | dict(task.secrets),
                files=files_inside,
                folder=session.launch_folder(folder),
                masks=toolchain.masks(tools) if owner.uid == 0 else (),
            )
            live = opening.up()
            try:
                pipes.feed(ways.contents(job), live.pane)
                init: Process = ways.settle(job, live.pane, pipes.release)
            except SandboxError as error:
                raise _with_last_words(host, folder, error) from None
        undo.pop_all()
    return Instance(
        boot_id=boot_id(),
        started_at=time.time(),
        folder=folder,
        server=live.server,
        pane=live.pane,
        init=init,
        xvfb=screen.server if screen else None,
        display=screen.number if screen else None,
        env=env,
        given=granted.given,
        skipped=granted.skipped,
    )


def _resumes(task: Start, shared: bool) -> bool:
    """Whether the agent goes on with its last conversation."""
    spec = task.record.asked()
    claude_dir = f"{task.owner.home}/.claude" if shared else f"{task.store}/claude"
    return spec.resume and task.resumes and agent.can_resume(spec, claude_dir)


def _without_missing(granted: grants.Granted) -> grants.Granted:
    """Leave out, and report, the user's own mounts whose source is not there."""
    missing = {bind.source for bind in granted.binds if bind.checked and not _readable(bind.source)}
    return dataclasses.replace(
        granted,
        binds=tuple(bind for bind in granted.binds if bind.source not in missing),
        skipped={**granted.skipped, **{f"mount {path}": "it does not exist or cannot be read" for path in missing}},
    )


def _prepare(task: Start, shared: bool) -> None:
    """Make the folders that are mounted or written to."""
    spec = task.record.asked()
    try:
        os.mkdir(session.launch_folder(task.folder), 0o700)
        stored = [f"{task.store}/{name}" for name in grants.stored_folders()]
        for path in (f"{task.record.data}/{claude.SESSIONS}", *stored):
            os.makedirs(path, mode=0o700, exist_ok=True)
        folder, own = f"{task.owner.home}/.claude", f"{task.store}/claude"
        if shared:
            _prepare_claude(folder, own, spec.project_dir)
        settings = f"{own}/{claude.SETTINGS}"
        _put(settings, agent.settings(_content(f"{folder}/{claude.SETTINGS}") if shared else _own_content(settings)))
        # What an agent before has left says nothing of this one, which will have the same pid inside.
        _empty_folder(f"{task.record.data}/{claude.SESSIONS}")
        log = task.record.log
        if os.path.exists(log):
            os.replace(log, f"{log}.1")
    except OSError as error:
        raise SandboxError(f"{error.filename} cannot be made: {error.strerror}.") from None


def _prepare_claude(folder: str, own: str, project_dir: str) -> None:
    """Have what is shared of the account's ~/.claude there, and renew the copies in the project's own."""
    os.makedirs(f"{folder}/{claude.PROJECTS}/{claude.encoded(project_dir)}", mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        # So that a login made inside is one for all.
        files.create(f"{folder}/{claude.CREDENTIALS}", b"{}\n")
    with os.scandir(folder) as entries:
        scripts = {entry.name for entry in entries if entry.name.endswith(claude.SCRIPT_ENDINGS)}
    with os.scandir(own) as entries:
        scripts |= {entry.name for entry in entries if entry.name.endswith(claude.SCRIPT_ENDINGS)}
    for name in (*claude.OBEYED_FILES, *scripts):
        content = _content(f"{folder}/{name}")
        if content is not None:
            _put(f"{own}/{name}", content, 0o700 if name in scripts else 0o600)
        else:
            with contextlib.suppress(OSError):
                os.unlink(f"{own}/{name}")


def _put(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file in a folder that is written to from inside, whatever stands in its place."""
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
    files.replace(path, content, mode)


def _empty_folder(path: str) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)


def _content(path: str) -> bytes | None:
    """A file of the account's own, which may be a link as those who keep their settings elsewhere have it."""
    return _own_content(os.path.realpath(path))


def _own_content(path: str) -> bytes | None:
    """A file that is no link: one in a folder that is written to from inside could lead anywhere."""
    file = files.open_regular(path)
    if file is None:
        return None
    with file:
        return file.read(_COPY_LIMIT)


def _clear_ways(task: Start, binds: Sequence[Bind]) -> None:
    """Have no mount made through a link that was put, from inside, into a folder that is mounted above it."""
    written = [bind for bind in binds if bind.mode == READ_WRITE]
    for bind in binds:
        above = [other for other in written if bind.target.startswith(f"{other.target}/")]
        if not above:
            continue
        nearest = max(above, key=lambda other: len(other.target))
        path = nearest.source
        for part in bind.target.removeprefix(f"{nearest.target}/").split("/"):
            path = f"{path}/{part}"
            if not os.path.islink(path):
                continue
            if not path.startswith((f"{task.store}/", f"{task.record.data}/")):
                raise SandboxError(
                    f"{shown(path)} is a symbolic link, and {shown(bind.target)} would be mounted through it.",
                    "Remove the link, or give the mount another target.",
                )
            os.unlink(path)


def _display(host: Host, task: Start, undo: contextlib.ExitStack) -> display.Starting | None:
    spec = task.record.asked()
    if not spec.granted("display"):
        return None
    starting = display.Starting(host, task.folder, spec.screen_size(), spec.glx)
    undo.callback(starting.stop)
    return starting


def _place(host: Host, task: Start, screen: display.Display | None) -> grants.Owner:
    owner = task.owner
    # The engine's variables are the owner's only where the owner runs it.
    environ = host.environ if host.uid == owner.uid else {}
    return grants.Owner(
        home=owner.home,
        uid=owner.uid,
        runtime=environ.get("XDG_RUNTIME_DIR") or f"/run/user/{owner.uid}",
        environ=environ,
        data=task.record.data,
        store=task.store,
        display=screen.number if screen else None,
        x_cookie=display.cookie_file(task.folder),
    )


def _readable(path: str) -> bool:
    return os.access(path, os.R_OK)


def _with_last_words(host: Host, folder: str, error: SandboxError) -> SandboxError:
    """The error with what the program printed before it ended, and with what on this host explains it."""
    lines = [line.strip() for line in session.capture(host, folder).splitlines() if line.strip()]
    words = " ".join(lines[-_LAST_LINES:])
    problem = user_namespaces()
    hint = problem.hint if problem else error.hint
    return SandboxError(f"{error.what.rstrip('.')}: {words[:400]}" if words else error.what, hint)


def stop(spec: Spec, instance: Instance, owner: Account) -> Instance:
    """End the program, then all that was started for it; wait until it is gone."""
    by_itself = None if instance.running() else exit_code(spec, instance)
    if instance.boot_id == boot_id():
        if instance.init.alive():
            _end_program(instance)
        for server in (instance.server, instance.xvfb):
            if server is not None:
                server.end(_SERVER_GRACE)
        if instance.display is not None:
            display.forget(instance.display)
    sweep(instance.folder, owner)
    return dataclasses.replace(instance, stopped_at=time.time(), exit_code=by_itself)


def _end_program(instance: Instance) -> None:
    for process in procs.children(instance.init.pid):
        # A shell at its prompt ignores TERM, and takes the loss of its terminal for its end.
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGHUP)
    if not instance.pane.wait(_AGENT_GRACE):
        # The first process of a pid namespace takes all others with it.
        instance.init.signal(signal.SIGKILL)
        instance.pane.wait(_SERVER_GRACE)


def exit_code(spec: Spec, instance: Instance) -> int | None:
    """What the program ended with, where it ended by itself."""
    code: int | None = backend(spec).exit_code(session.launch_folder(instance.folder))
    return code


def sweep(folder: str, owner: Account) -> None:
    """End whatever still uses a runtime folder, and delete it: also after a crash, when nothing is recorded."""
    for process in procs.with_arguments([("-S", socket(folder)), ("-auth", display.cookie_file(folder))], owner.uid):
        process.end(_SERVER_GRACE)
    shutil.rmtree(folder, ignore_errors=True)


def sweep_logging_to(log: str, owner: Account) -> list[str]:
    """Sweep the runtime folders of the tmux servers that keep this log; the folders, which may be left empty."""
    found = []
    for process in procs.with_variable("LOG", log, owner.uid):
        path = procs.argument_after(process.pid, "-S")
        if path is not None and path == socket(os.path.dirname(path)):
            sweep(os.path.dirname(path), owner)
            found.append(os.path.dirname(path))
    return found
