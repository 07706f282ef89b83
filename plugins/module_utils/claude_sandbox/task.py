# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A prompt as a task: one run of `claude -p` in a sandbox made for it, or in one that runs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import select
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import agent, keys, lifecycle, procs, toolchain
from .commands import Completed
from .comparison import Comparison
from .errors import ConflictError, SandboxError
from .grants import Bind
from .host import Account
from .prompt import Report, Task, arguments, conclude
from .sandboxes import Request, Sandboxes
from .spec import Spec, parse
from .untrusted import line

_MARK = "CLAUDE_SANDBOX_TASK"
_KILL_MARKED = """\
for folder in /proc/[0-9]*; do
    if grep -qzx "$0" "$folder/environ" 2>/dev/null; then kill -KILL "${folder#/proc/}" 2>/dev/null; fi
done
true
"""
_WRITE_STATE = 'umask 077 && exec cat >"$HOME/.claude.json"'

# The name of a sandbox made for a task says which process made it: pid and start time.
_MADE = re.compile(r"task-([0-9]{1,10})-([0-9]{1,20})-[0-9a-f]{8}")
_HOLD_SECONDS = 600  # that a sandbox may outlast the time that its task has
_CLEAN_SECONDS = 60.0


def in_new(engine: Sandboxes, asked: Request, task: Task, keep: bool) -> Report:
    """Carry a task out in a sandbox made for it, which is removed then unless it is to be kept.

    asked: its parameters; name, state and agent are chosen here. Raises SandboxError where it cannot be made.
    """
    task.check()
    clear(engine)
    request = _new(engine, asked, task, keep)
    spec = parse(request.params or {})
    with contextlib.ExitStack() as held:
        if not keep:
            # Loaded now: what this was loaded from may be gone with this process.
            from . import changes, view  # noqa: F401

            lifecycle.backend(spec)
            held.enter_context(lifeline(lambda: remove(engine, request.name)))
        outcome = engine.ensure(request)
        report = Report(task.session_id or str(uuid.uuid4()), request.name, keep, warnings=list(outcome.warnings))
        try:
            _write_state(engine, request)
            _work(engine, request.name, task, {}, report)
        finally:
            if not keep:
                report.warnings += _removed(engine, request.name)
                report.kept = engine.registry.get(request.name) is not None
    return report


def in_existing(engine: Sandboxes, ref: str, task: Task, env: Mapping[str, str]) -> Report:
    """Carry a task out beside the agent of a running sandbox. env: variables beside that agent's."""
    task.check()
    name = engine.registry.resolve(ref).name
    report = Report(task.session_id or str(uuid.uuid4()), name, kept=True)
    mark = os.urandom(8).hex()

    def end_all() -> None:
        _end_marked(engine, name, mark)

    with lifeline(end_all):
        if _work(engine, name, task, {**env, _MARK: mark}, report).timed_out:
            # What the agent has started is no longer of its process group.
            end_all()
    return report


def _end_marked(engine: Sandboxes, name: str, mark: str) -> None:
    """End what a task's agent has started, as far as it still has the variable that the task gave it."""
    # It may have ended meanwhile.
    with contextlib.suppress(SandboxError):
        if engine.registry.resolve(name).asked().backend == "vm":
            engine.execute(name, ["sh", "-c", _KILL_MARKED, f"{_MARK}={mark}"], cwd="/", timeout=_CLEAN_SECONDS)
            return
    # From outside: to another command inside, Landlock shows nothing of them.
    wanted = f"\0{_MARK}={mark}\0".encode()
    for process in filter(None, map(procs.identify, procs.every_pid())):
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
            if wanted in b"\0" + file.read():
                process.signal(signal.SIGKILL)


def preview(engine: Sandboxes, asked: Request, task: Task, keep: bool) -> None:
    """Raises SandboxError where in_new would, as far as that can be known before."""
    task.check()
    engine.ensure(_new(engine, asked, task, keep), check=True)


def clear(engine: Sandboxes) -> None:
    """Remove the sandboxes of tasks whose process is gone, with the process that would have removed them."""
    for name in engine.registry.names():
        made = _MADE.fullmatch(name)
        if made and not procs.Process(int(made[1]), int(made[2])).alive():
            with contextlib.suppress(SandboxError):
                record = engine.registry.get(name)
                if record is not None and record.asked().agent[0] == "sleep":
                    engine.ensure(Request(name, "absent"))


def remove(engine: Sandboxes, name: str) -> None:
    """Remove a sandbox, whoever still holds it. Raises SandboxError where it is held for too long."""
    end = time.monotonic() + _CLEAN_SECONDS
    while True:
        try:
            engine.ensure(Request(name, "absent"))
            return
        except ConflictError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _removed(engine: Sandboxes, name: str) -> list[str]:
    """Remove the sandbox; what went wrong, for nothing of what is known may be lost by that."""
    try:
        remove(engine, name)
    except SandboxError as error:
        return [f"Sandbox {name} could not be removed: {error.what}"]
    return []


@contextlib.contextmanager
def lifeline(clean: Callable[[], None]) -> Iterator[None]:
    """Have `clean` called by a process of its own where this one dies, however that happens, before it is through."""
    # Of this process, before there is another: so it cannot be mistaken for a later one.
    ours = os.pidfd_open(os.getpid())
    child = os.fork()
    if not child:
        try:
            _outlive(ours)
            clean()
        finally:
            os._exit(0)
    os.close(ours)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _outlive(other: int) -> None:
    """Wait until another process, given by its pidfd, has ended; hold nothing of what it has opened."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.closerange(3, other)
    os.closerange(other + 1, os.sysconf("SC_OPEN_MAX"))
    poller = select.poll()
    poller.register(other, select.POLLIN)
    poller.poll()


def _new(engine: Sandboxes, asked: Request, task: Task, keep: bool) -> Request:
    """What is asked of the engine: a sandbox in which a program waits for a bounded time; in one to keep, a shell."""
    params = {**(asked.params or {}), "agent": ["claude"]}
    spec = parse(params)
    owner = engine.owner(spec)
    mounts = [
        *(mount.__dict__ for mount in spec.mounts),
        *({"source": bind.source, "target": bind.target} for bind in _program(engine, spec, owner)[1]),
    ]
    process = procs.identify(os.getpid())
    if process is None:
        raise SandboxError("This process cannot see itself: /proc is not there.")
    who = "task" if keep else f"task-{process.pid}-{process.start}"
    holder = ["shell"] if keep else ["sleep", str(math.ceil(task.timeout) + _HOLD_SECONDS)]
    more = {"agent": holder, "mounts": mounts, "env": {**agent.CLAUDE_ENV, **spec.env}, "user": owner.name}
    return dataclasses.replace(asked, name=f"{who}-{os.urandom(4).hex()}", state="started", params={**params, **more})


def _program(engine: Sandboxes, spec: Spec, owner: Account) -> tuple[list[str], tuple[Bind, ...]]:
    """Claude Code's program in such a sandbox, and what must be mounted for it. Raises SandboxError."""

    def find() -> Any:
        argv, binds = toolchain.agent_argv(spec, toolchain.find(spec), owner)
        return argv, [[bind.source, bind.target] for bind in binds]

    argv, binds = lifecycle.as_owner(engine.host, owner, None, find)
    return argv, tuple(Bind(source, target) for source, target in binds)


def _write_state(engine: Sandboxes, request: Request) -> None:
    """Give the sandbox the account's ~/.claude.json, as one whose agent is Claude Code has it from the start."""
    record = engine.registry.resolve(request.name)
    spec = dataclasses.replace(record.asked(), agent=["claude"])
    owner, secrets = engine.owner(spec), keys.variables(record)

    def read() -> str:
        shared = spec.granted("claude")
        return agent.files_inside(spec, owner, "", shared, secrets)[agent.places_of_files(owner)[-1]].decode()

    content = lifecycle.as_owner(engine.host, owner, None, read)
    done = engine.execute(
        request.name, ["sh", "-c", _WRITE_STATE], cwd="/", stdin=content.encode(), timeout=_CLEAN_SECONDS
    )
    if done.code:
        words = line(done.stderr.decode(errors="replace"))
        raise SandboxError(f"Claude Code's settings could not be put into the sandbox: {words}.")


def _work(engine: Sandboxes, name: str, task: Task, env: Mapping[str, str], report: Report) -> Completed:
    """Have the agent work in a running sandbox, and put into the report what came of it."""
    record = engine.registry.resolve(name)
    spec = dataclasses.replace(record.asked(), agent=["claude"])
    owner = engine.owner(spec)
    program, _binds = _program(engine, spec, owner)
    argv = [*program, *arguments(task, agent.notice(spec), report.session_id)]
    comparison = Comparison(engine.host, owner, spec.project_dir)
    try:
        begun = time.monotonic()
        done = engine.execute(name, argv, env={**agent.CLAUDE_ENV, **env}, stdin=task.stdin, timeout=task.timeout)
        report.duration_s = round(time.monotonic() - begun, 3)
    except BaseException:
        comparison.give_up()
        raise
    conclude(report, task, done)
    try:
        report.files, report.patch = comparison.result()
    except SandboxError as error:
        report.warnings.append(f"What the agent has changed is not known: {error.what}")
    return done
