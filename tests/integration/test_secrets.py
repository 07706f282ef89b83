"""Secrets reach the agent, and nothing else: no output, no record, no command line, no terminal server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration import playing
from tests.integration.arena import PLAIN, RUNTIME, Arena

KEY = "canary-key-0123456789-abcdefghijklmnopqrstuvwxyz"
TOKEN = "canary-token-9876543210-zyxwvutsrqponmlkjihgfedcba"
OTHER = "canary-other-5555555555-mmmmmmmmmmmmmmmmmmmmmmmmmm"
SECRETS: dict[str, Any] = {"api_key": KEY, "secret_env": {"TOKEN": TOKEN}}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _mentions(text: str) -> list[str]:
    """Which canaries a text has in it; a part of one gives it away, too, and so does a digest."""
    whole = [word for word in (KEY, TOKEN, OTHER) if word in text or word[-20:] in text or word[:16] in text]
    return whole + [word for word in (KEY, TOKEN, OTHER) if _digest(word)[:16] in text]


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes().decode("latin-1")


def _where(arena: Arena) -> list[str]:
    """Where on the host a canary can be found, besides the agent's own memory and the file kept for its next start."""
    found = []
    for folder in (arena.state_dir, arena.project, *_runtime(arena)):
        found += [str(path) for path, text in _files(folder) if _mentions(text)]
    for pid, _ in arena.processes():
        with contextlib.suppress(OSError):
            if _mentions(Path(f"/proc/{pid}/cmdline").read_bytes().decode("latin-1")):
                found.append(f"cmdline of {pid}")
    return found


def _runtime(arena: Arena) -> list[Path]:
    names = arena.engine.registry.records()
    return [Path(record.instance.folder) for record in names if record.instance is not None]


def _tmux(arena: Arena, *argv: str) -> str:
    socket = f"{_runtime(arena)[0]}/tmux"
    done = subprocess.run(["tmux", "-S", socket, *argv], capture_output=True, text=True, check=True)
    return done.stdout


def test_secrets_stay_secret(arena: Arena) -> None:
    hidden = [{"name": "many", "project_dir": str(arena.project), **PLAIN, **SECRETS}]
    grants = {**PLAIN["grants"], "display": True}
    digest = 'printf %s "$ANTHROPIC_API_KEY" | sha256sum; printf %s "$TOKEN" | sha256sum; sha256sum </proc/1/environ'
    run = playing.play(
        [
            arena.started(check=True, grants=grants, **SECRETS),
            arena.started(grants=grants, **SECRETS),
            arena.started(grants=grants, **SECRETS),
            arena.task("claude_sandbox_info", usage=True),
            arena.task("claude_sandboxes", sandboxes=hidden),
            arena.started(grants=grants, network=False, **SECRETS),
            arena.started(grants=grants, network=False, on_change="restart", **SECRETS),
            arena.started("broken", agent=["/no/such/program"], **SECRETS),
            arena.started("broken", geometry="wide", **SECRETS),
            arena.inside("sh", "-c", "exit 3", env={"A": "b"}),
            arena.task("claude_sandbox_attach", name="box", wait_for="never shown", timeout=0.1),
        ],
        "-vvvv",
        "--diff",
    )
    failed = [number for number, result in enumerate(run.results) if result.failed]
    assert failed == [5, 7, 8, 9, 10], [result.message for result in run.results]
    assert _mentions(run.output) == []
    assert _mentions(json.dumps(run.results)) == []
    secrets = [str(arena.folder(name) / "data/secrets.json") for name in ("box", "many")]
    assert sorted(_where(arena)) == sorted(secrets)
    for path in secrets:
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert os.stat(path).st_uid == arena.account.uid
    assert _mentions(_tmux(arena, "show-environment", "-g") + _tmux(arena, "show-environment", "-t", "main")) == []
    server = arena.pids()["server"]
    assert _mentions(Path(f"/proc/{server}/environ").read_bytes().decode("latin-1")) == []

    # The control: the agent and what runs beside it have them, and the search finds what is there.
    (seen,) = arena.play(arena.inside("sh", "-c", digest))
    assert [line.split()[0] for line in seen["stdout"].splitlines()] == [_digest(KEY), _digest(TOKEN)]
    first = arena.pids()["init"]
    agent = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()[0]
    assert _mentions(Path(f"/proc/{agent}/environ").read_bytes().decode("latin-1")) == [KEY, TOKEN]

    arena.play(*(arena.task(name=name, state="absent") for name in ("box", "many")))
    assert _where(arena) == []
    assert [path for path in RUNTIME.glob("*") if path.stat().st_uid == arena.account.uid and path.is_dir()] == []


def test_changing_secrets(arena: Arena) -> None:
    """A new one is recorded without a restart; none given keeps those that are stored, an empty one takes them away."""
    show = ("sh", "-c", 'printf %s "$TOKEN" | sha256sum; echo ${ANTHROPIC_API_KEY+set}')
    first, kept, check, changed, again, after, taken, last = arena.play(
        arena.started(**SECRETS),
        arena.started(),
        arena.started(check=True, secret_env={"TOKEN": OTHER}),
        arena.started(secret_env={"TOKEN": OTHER}),
        arena.started(secret_env={"TOKEN": OTHER}),
        arena.inside(*show),
        arena.started(api_key="", secret_env={}),
        arena.inside(*show),
    )
    assert not kept.changed
    assert check["actions"] == changed["actions"] == ["update"]
    assert changed.sandbox["pid"] == first.sandbox["pid"]
    assert not again.changed
    assert after["stdout"] == f"{_digest(OTHER)}  -\nset"
    assert taken["actions"] == ["update"]
    assert last["stdout"] == f"{_digest('')}  -"
    assert _where(arena) == []
