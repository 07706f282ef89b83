# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starting and stopping what a sandbox is made of. Runs under the sandbox's own account."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import agent, claude, display, files, foreground, grants, limits, privileged, procs, scope, session, toolchain
from .backends.base import Backend, Command, Job, Running
from .errors import SandboxError, shown
from .grants import READ_WRITE, Bind
from .host import Account, Host, Problem, account, boot_id, group_name, missing, user_namespaces
from .instance import Instance, launch_folder, socket
from .procs import Process
from .registry import Record, remove_tree
from .spec import Mount, Spec
from .toolchain import Toolchain

_AGENT_GRACE = 0.5  # seconds between asking the agent to end and ending it
_SERVER_GRACE = 1.0
_LAST_LINES = 6
_COPY_LIMIT = 4 << 20  # bytes of a settings file
# What says how to draw in the terminal of this process.
_OF_TERMINAL = ("TERM", "COLORTERM")
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
    foreground: whether it runs in the terminal of this process, and without a session.
    """

    record: Record
    owner: Account
    folder: str
    store: str
    secrets: Mapping[str, str]
    resumes: bool
    state_dir: str = ""
    foreground: bool = False


def backend(spec: Spec) -> Backend:
    """The chosen backend; only that one is imported."""
    chosen: Any  # a module is its own protocol
    # Ansible packs what is imported by a statement, and nothing else.
    if spec.backend == "container":
        from .backends import container

        chosen = container
    elif spec.backend == "vm":
        from .backends import vm

        chosen = vm
    else:
        from .backends import bubblewrap

        chosen = bubblewrap
    found: Backend = chosen
    return found


def running(record: Record, instance: Instance | None, owner: Account | None = None) -> Running:
    """A sandbox as its backend knows it."""
    spec = record.asked()
    whose = owner or account(spec.user or os.geteuid())
    return Running(record.name, record.id, record.folder, spec, whose, instance)


def as_owner(
    host: Host, owner: Account, spec: Spec | None, function: Callable[[], Any], *, always_fork: bool = False
) -> Any:
    """The function's value, worked out under the sandbox's account, in a child where that is another one.

    always_fork: for what changes its process for good, or must be the only thread.
    """
    # Everything is imported before: that account may not be able to read what we were started from.
    if owner.uid != host.uid:
        from . import usage  # noqa: F401
    if spec is not None:
        handlers: dict[str, privileged.Handler] = {}
        if host.uid == 0:
            # What is root's own needs nobody to ask, but where another one is told apart from the rest of root's work.
            handlers |= backend(spec).handlers(owner, trusted=True)
            handlers |= scope.handlers(owner) if handlers or owner.uid != 0 else {}
        if handlers:
            return privileged.serving(owner, handlers, function)
    if owner.uid != host.uid:
        return procs.fork(owner, function).result()
    return procs.fork(None, function).result() if always_fork else function()


def problems(host: Host, spec: Spec, owner: Account) -> list[Problem]:
    """What on this host keeps such sandboxes of the account from working, whatever their projects; what mends it."""
    found = [*backend(spec).problems(host, spec), *scope.problems(host, spec, owner)]
    programs = ["tmux"]
    if spec.granted("display") and not backend(spec).OWN_SCREEN:
        programs.append("Xvfb")
    found += [missing(program) for program in programs if host.find(program) is None]
    try:
        toolchain.agent_argv(spec, toolchain.find(spec), owner)
    except SandboxError as error:
        found.append(Problem(error.what, error.hint))
    return found


def preflight(host: Host, spec: Spec, owner: Account, state_dir: str) -> None:
    """Look whether the sandbox could start, and change nothing. Raises SandboxError with the first thing in the way."""
    for problem in problems(host, spec, owner):
        raise SandboxError(problem.what, problem.hint)
    check_project(spec.project_dir, owner, state_dir)
    for mount in spec.mounts:
        _check_source("mounts:", mount.source, state_dir)
        _check_target(mount.target, owner)
    backend(spec).check(spec, owner)


def add_mounts(host: Host, task: Start, instance: Instance, added: Sequence[Mount]) -> None:
    """Mount more in a sandbox that runs, whose backend can. task: as for a start with the mounts that it has then."""
    from .backends import container

    preflight(host, task.record.asked(), task.owner, task.state_dir)
    job, _granted = assemble(host, task, begin(host, task), instance.display)
    live = running(task.record, instance, task.owner)
    container.add_mounts(host, live, [grants.own_mount(each) for each in added], job.binds)


def limit(host: Host, record: Record, spec: Spec, owner: Account, instance: Instance) -> None:
    """Have a sandbox that runs keep the limits of a spec."""
    from . import machines

    machine = machines.name_of(record.name, record.id) if spec.backend == "container" else ""
    asked = scope.Scoped(record.id, spec.limits, (instance.pane,), machine)
    scope.change(host, owner, instance.scope, asked, record.folder)


def count_in(host: Host, record: Record, owner: Account) -> None:
    """Have the limits of a sandbox that runs count for this process, too, and for what it starts."""
    instance = record.live
    if instance is not None and instance.scope and limits.wanted(record.asked().limits):
        scope.join(host, owner, instance.scope, instance.pane, record.folder)


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
    with contextlib.ExitStack() as undo:
        undo.callback(sweep, host, folder, running(task.record, None, owner))
        _prepare(host, task, spec.granted("claude"))
        # The X server and tmux come up side by side; what the sandbox gets is worked out meanwhile.
        starting = _display(host, task, undo)
        begun = begin(host, task)
        ways = backend(spec)
        command: Command = ways.command(host, spec, begun.argv, len(begun.files))
        with session.Pipes(folder, command) as pipes:
            opening: session.Opening | foreground.Opening
            if task.foreground:
                opening = foreground.Opening(folder, command)
            else:
                opening = session.Opening(host, folder, task.record.log, task.record.name, command)
            screen = starting.ready() if starting else None
            job, granted = assemble(host, task, begun, screen.number if screen else None)
            _clear_ways(task, job.binds)
            live = opening.up()
            scoped = _scope(host, task, live, screen)
            try:
                if command.inputs:
                    pipes.feed(ways.contents(job), live.pane)
                init: Process = ways.settle(host, job, live.pane, pipes.release)
            except SandboxError as error:
                raise _with_last_words(host, folder, error) from None
        undo.pop_all()
    accelerator = ways.accelerator(spec)
    return Instance(
        boot_id=boot_id(),
        started_at=time.time(),
        folder=folder,
        server=live.server,
        pane=live.pane,
        init=init,
        xvfb=screen.server if screen else None,
        display=screen.number if screen else None,
        env={name: value for name, value in job.env.items() if name not in task.secrets},
        given=granted.given,
        skipped=granted.skipped,
        accelerator=accelerator[0] if accelerator else None,
        not_kvm=accelerator[1] if accelerator else "",
        foreground=task.foreground,
        scope=scoped,
    )


def _scope(host: Host, task: Start, live: session.Session, screen: display.Display | None) -> str:
    """Put what runs, before it does anything, into a scope of its own; who has it."""
    spec, first = task.record.asked(), live.pane
    if task.foreground and not limits.wanted(spec.limits):
        # It ends with its terminal, and so with what that is in.
        return ""
    members = [] if task.foreground else [live.server, *procs.descendants(live.server.pid)]
    members += [screen.server] if screen else []
    # Last is the one that is looked at afterwards.
    processes = (*(each for each in members if each.pid != first.pid), first)
    asked = scope.Scoped(task.record.id, spec.limits, processes)
    return scope.place(host, task.owner, asked, task.record.folder)


@dataclasses.dataclass(frozen=True)
class Begun:
    """What of a job is known before its display is up."""

    toolchain: Toolchain
    argv: tuple[str, ...]
    binds: tuple[Bind, ...]
    files: Mapping[str, bytes]


def begin(host: Host, task: Start) -> Begun:
    """Find the programs, and write the small files."""
    spec, owner = task.record.asked(), task.owner
    shared = spec.granted("claude")
    tools = toolchain.find(spec)
    program, binds = toolchain.agent_argv(spec, tools, owner)
    argv = (*program, *agent.arguments(spec, _resumes(task, shared)))
    files_inside = agent.files_inside(spec, owner, group_name(owner.gid), shared, task.secrets)
    return Begun(tools, argv, (*tools.binds, *binds), files_inside)


def assemble(host: Host, task: Start, begun: Begun, screen: int | None) -> tuple[Job, grants.Granted]:
    """All that the backend needs to know. screen: the number of the sandbox's X display, where it has one."""
    spec, owner, record = task.record.asked(), task.owner, task.record
    own = backend(spec).own_grants(spec, begun.toolchain)
    where = dataclasses.replace(place(host, task, screen), guest_has=own)
    granted = _without_missing(grants.resolve(spec, where, readable))
    env = agent.environment(spec, record.name, owner, where, begun.toolchain, granted)
    if task.foreground:
        env |= {name: host.environ[name] for name in _OF_TERMINAL if name in host.environ and name not in spec.env}
    job = Job(
        name=record.name,
        id=record.id,
        record=record.folder,
        spec=spec,
        owner=owner,
        argv=begun.argv,
        toolchain=begun.toolchain,
        binds=(*begun.binds, *granted.binds),
        env=env | dict(task.secrets),
        files=begun.files,
        folder=launch_folder(task.folder),
        masks=toolchain.masks(begun.toolchain) if owner.uid == 0 and spec.backend != "container" else (),
        display=screen,
        resumes=task.resumes,
    )
    return job, granted


def _resumes(task: Start, shared: bool) -> bool:
    """Whether the agent goes on with its last conversation."""
    spec = task.record.asked()
    claude_dir = f"{task.owner.home}/.claude" if shared else f"{task.store}/claude"
    return spec.resume and task.resumes and agent.can_resume(spec, claude_dir)


def _without_missing(granted: grants.Granted) -> grants.Granted:
    """Leave out, and report, the user's own mounts whose source is not there."""
    missing = {bind.source for bind in granted.binds if bind.checked and not readable(bind.source)}
    return dataclasses.replace(
        granted,
        binds=tuple(bind for bind in granted.binds if bind.source not in missing),
        skipped={**granted.skipped, **{f"mount {path}": "it does not exist or cannot be read" for path in missing}},
    )


def _prepare(host: Host, task: Start, shared: bool) -> None:
    """Make the folders that are mounted or written to."""
    spec = task.record.asked()
    try:
        os.mkdir(launch_folder(task.folder), 0o700)
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
        if spec.granted("x11"):
            _write_host_cookie(host, task.owner, task.folder)
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
    if _own_content(path) == content and stat.S_IMODE(os.lstat(path).st_mode) == mode:
        return
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
    if not spec.granted("display") or backend(spec).OWN_SCREEN:
        return None
    starting = display.Starting(host, task.folder, spec.screen_size(), spec.glx, stays=not task.foreground)
    undo.callback(starting.stop)
    return starting


def place(host: Host, task: Start, screen: int | None) -> grants.Owner:
    """Whom a sandbox belongs to, as far as grants ask. screen: as for assemble."""
    owner = task.owner
    # The engine's variables are the owner's only where the owner runs it.
    environ = host.environ if host.uid == owner.uid else {}
    return grants.Owner(
        host_cookie=host_cookie(task.folder),
        home=owner.home,
        uid=owner.uid,
        runtime=environ.get("XDG_RUNTIME_DIR") or f"/run/user/{owner.uid}",
        environ=environ,
        data=task.record.data,
        store=task.store,
        display=screen,
        x_cookie=display.cookie_file(task.folder),
    )


def host_cookie(folder: str) -> str:
    """Where the cookie of the account's own X display is, for its sandbox."""
    return f"{folder}/xauth-host"


def _write_host_cookie(host: Host, owner: Account, folder: str) -> None:
    """Have it there, where the account's own file has one for that display."""
    number = grants.x_display(host.environ)
    content = _content(host.environ.get("XAUTHORITY") or f"{owner.home}/.Xauthority")
    if number is not None and host.uid == owner.uid:
        display.write_cookies(host_cookie(folder), content or b"", number)


def readable(path: str) -> bool:
    """Whether this process may read what is at a path, and something is there."""
    return os.access(path, os.R_OK)


def _with_last_words(host: Host, folder: str, error: SandboxError) -> SandboxError:
    """The error with what the program printed before it ended, and with what on this host explains it."""
    lines = [line.strip() for line in session.capture(host, folder).splitlines() if line.strip()]
    words = " ".join(lines[-_LAST_LINES:])
    problem = user_namespaces()
    hint = problem.hint if problem else error.hint
    return SandboxError(f"{error.what.rstrip('.')}: {words[:400]}" if words else error.what, hint)


def stop(host: Host, live: Running, instance: Instance) -> Instance:
    """End the program, then all that was started for it; wait until it is gone."""
    by_itself = None if instance.running() else exit_code(live.spec, instance)
    if instance.boot_id == boot_id():
        backend(live.spec).end(host, live, _AGENT_GRACE)
        for server in (instance.server, instance.xvfb):
            # In the foreground it is the process that waits for the sandbox, perhaps this one.
            if server is not None and server.pid != os.getpid():
                server.end(_SERVER_GRACE)
        if instance.display is not None:
            display.forget(instance.display)
    if instance.foreground and instance.boot_id == boot_id():
        # All that was started for it was its process' own, and is known.
        shutil.rmtree(instance.folder, ignore_errors=True)
    else:
        sweep_folder(instance.folder, live.owner)
    return dataclasses.replace(instance, stopped_at=time.time(), exit_code=by_itself)


def exit_code(spec: Spec, instance: Instance) -> int | None:
    """What the program ended with, where it ended by itself."""
    return backend(spec).exit_code(launch_folder(instance.folder))


def why_dead(spec: Spec, instance: Instance) -> str | None:
    """Why it ended, where that was not the program's own doing."""
    return backend(spec).why_dead(launch_folder(instance.folder))


def sweep(host: Host, folder: str, live: Running) -> None:
    """End whatever still runs for a sandbox of which nothing is recorded as started, and delete its runtime folder."""
    backend(live.spec).end(host, live, 0)
    foreground.sweep(folder, live.owner.uid)
    sweep_folder(folder, live.owner)


def sweep_folder(folder: str, owner: Account) -> None:
    """End whatever still uses a runtime folder, and delete it: also after a crash, when nothing is recorded."""
    for process in procs.with_arguments([("-S", socket(folder)), ("-auth", display.cookie_file(folder))], owner.uid):
        below = list(procs.descendants(process.pid))
        process.end(_SERVER_GRACE)
        # What ran in its terminal ends with that, and may take a moment to.
        for each in below:
            each.wait(_SERVER_GRACE)
    shutil.rmtree(folder, ignore_errors=True)


def sweep_logging_to(log: str, owner: Account) -> list[str]:
    """Sweep the runtime folders of the tmux servers that keep this log; the folders, which may be left empty."""
    found = []
    for process in procs.with_variable("LOG", log, owner.uid):
        path = procs.argument_after(process.pid, "-S")
        if path is not None and path == socket(os.path.dirname(path)):
            sweep_folder(os.path.dirname(path), owner)
            found.append(os.path.dirname(path))
    return found
