# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Working in a running sandbox under its own account, whoever asks."""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from . import agent, display, inside, keys, lifecycle, prices, procs, screen, terminal, toolchain
from . import usage as usages
from .commands import Completed, Invocation
from .host import Account, Host
from .registry import Record
from .spec import environment


def execute(
    host: Host,
    record: Record,
    owner: Account,
    argv: Sequence[str],
    cwd: str | None,
    env: Mapping[str, str],
    stdin: bytes,
    timeout: float | None,
) -> Completed:
    """Run a command inside, with the agent's environment and `env` beside it. timeout: seconds."""
    instance, spec = inside.live_instance(record), record.asked()
    whole = {**instance.env, **keys.variables(record), **environment("env", env)}
    running, ways = lifecycle.running(record, instance, owner), lifecycle.backend(spec)

    def work() -> dict[str, Any]:
        lifecycle.count_in(host, record, owner)
        shell = toolchain.find(spec).shell
        invocation = Invocation(tuple(argv), whole, cwd or spec.project_dir, shell, stdin, timeout)
        done: Completed = ways.execute(host, running, invocation)
        return done.to_json()

    return Completed.from_json(lifecycle.as_owner(host, owner, spec, work, always_fork=True))


def enter(host: Host, record: Record, owner: Account, argv: Sequence[str]) -> int:
    """Run a command inside in this process' terminal; its exit code.

    Where something else than a terminal is read or written, the command has the standard streams of this process as
    they are.
    """
    instance, spec = inside.live_instance(record), record.asked()
    shell = toolchain.find(spec).shell
    env = {**instance.env, **keys.variables(record), "TERM": host.environ.get("TERM", "xterm")}
    invocation = Invocation(tuple(argv) or (shell,), env, spec.project_dir, shell)
    running, ways = lifecycle.running(record, instance, owner), lifecycle.backend(spec)
    if not (os.isatty(0) and os.isatty(1)):

        def pass_through() -> int:
            lifecycle.count_in(host, record, owner)
            return ways.interact(host, running, invocation, None)

        return int(lifecycle.as_owner(host, owner, spec, pass_through, always_fork=True))
    with terminal.lent() as lent:
        if owner.uid != host.uid:
            os.fchown(lent, owner.uid, -1)

        def work() -> int:
            lifecycle.count_in(host, record, owner)
            return ways.interact(host, running, invocation, lent)

        return int(lifecycle.as_owner(host, owner, spec, work, always_fork=True))


def agent_argv(record: Record, owner: Account, arguments: Sequence[str]) -> tuple[str, ...]:
    """What runs another agent of the same kind in a sandbox, with arguments of its own. Raises SandboxError."""
    spec = dataclasses.replace(record.asked(), agent_args=list(arguments))
    program, _binds = toolchain.agent_argv(spec, toolchain.find(spec), owner)
    return (*program, *agent.arguments(spec, resumes=False))


def exists(host: Host, record: Record, owner: Account, path: str) -> bool:
    """Whether a path exists inside, as seen from there."""
    running = lifecycle.running(record, inside.live_instance(record), owner)
    ways = lifecycle.backend(running.spec)
    return bool(lifecycle.as_owner(host, owner, running.spec, lambda: ways.exists(host, running, path)))


def frame(host: Host, record: Record, owner: Account) -> bytes:
    """What the screen shows, as PNG."""
    instance, spec = inside.live_instance(record), record.asked()
    inside.check_display(record)
    running, ways = lifecycle.running(record, instance, owner), lifecycle.backend(spec)

    def look() -> str:
        picture = ways.frame(running) if ways.OWN_SCREEN else screen.png(display.framebuffer(instance.folder))
        return base64.b64encode(picture).decode()

    return base64.b64decode(lifecycle.as_owner(host, owner, spec, look))


def converse(
    host: Host, record: Record, owner: Account, text: str | None, keystrokes: Sequence[str], wait: inside.Wait
) -> dict[str, Any]:
    """Type into the agent's terminal, wait for an answer, read the screen (see inside.converse)."""
    inside.live_instance(record)
    found: dict[str, Any] = lifecycle.as_owner(
        host, owner, record.asked(), lambda: inside.converse(host, record, text, keystrokes, wait)
    )
    return found


def claude_dir(record: Record, owner: Account, store: str) -> str:
    """The folder with the transcripts that count for a sandbox: the account's ~/.claude, or the one in `store`."""
    shared = record.instance is None or "claude" in record.instance.given
    return f"{owner.home}/.claude" if shared else f"{store}/claude"


def usage(host: Host, record: Record, owner: Account, store: str, state_dir: str) -> dict[str, Any]:
    """What a sandbox uses: its processes now, its agent's tokens since it was made, and what the agent does.

    Raises SandboxError where the user's prices, in the state directory, cannot be read.
    """
    spec, live = record.asked(), record.live
    meter = usages.Meter(claude_dir(record, owner, store), spec.project_dir, record.created_at)
    table = prices.load(state_dir)
    session = lifecycle.as_owner(host, owner, spec, lambda: usages.shown(meter.refresh(), table))
    processes = procs.Usage(0.0, 0, 0)
    if live is not None:
        processes = lifecycle.backend(spec).usage(lifecycle.running(record, live, owner))
    doing = inside.activity_of(record) if live else None
    return {
        "process": dataclasses.asdict(processes),
        "session": session,
        "activity": doing.status if doing else None,
        "waiting_for": doing.waiting_for if doing else None,
    }
