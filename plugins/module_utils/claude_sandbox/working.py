# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Working in a running sandbox under its own account, whoever asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from . import inside, keys, lifecycle, procs
from . import usage as usages
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
) -> inside.Completed:
    """Run a command inside, with the agent's environment and `env` beside it. timeout: seconds."""
    instance, spec = inside.live_instance(record), record.asked()
    whole = {**instance.env, **keys.variables(record), **environment("env", env)}
    folder = cwd or spec.project_dir

    def work() -> dict[str, Any]:
        return inside.execute(record, argv, whole, folder, stdin, timeout).to_json()

    return inside.Completed.from_json(lifecycle.as_owner(host, owner, spec, work, always_fork=True))


def exists(host: Host, record: Record, owner: Account, path: str) -> bool:
    """Whether a path exists inside, as seen from there."""
    inside.live_instance(record)
    return bool(lifecycle.as_owner(host, owner, record.asked(), lambda: inside.exists(record, path)))


def converse(
    host: Host, record: Record, owner: Account, text: str | None, keystrokes: Sequence[str], wait: inside.Wait
) -> dict[str, Any]:
    """Type into the agent's terminal, wait for an answer, read the screen (see inside.converse)."""
    inside.live_instance(record)
    found: dict[str, Any] = lifecycle.as_owner(
        host, owner, record.asked(), lambda: inside.converse(host, record, text, keystrokes, wait)
    )
    return found


def usage(host: Host, record: Record, owner: Account, store: str) -> dict[str, Any]:
    """What a sandbox uses: its processes now, its agent's tokens since it was made, and what the agent does."""
    spec, instance = record.asked(), record.instance
    running = instance is not None and instance.stopped_at is None and instance.running()
    shared = instance is None or "claude" in instance.given
    claude_dir = f"{owner.home}/.claude" if shared else f"{store}/claude"
    tokens = lifecycle.as_owner(
        host, owner, spec, lambda: dataclasses.asdict(usages.measure(claude_dir, spec.project_dir, record.created_at))
    )
    processes = procs.namespace_usage(instance.init.pid) if running and instance else procs.Usage(0.0, 0, 0)
    return {
        "process": dataclasses.asdict(processes),
        "session": tokens,
        "activity": inside.activity_of(record) if running else None,
    }
