# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starting, joining, entering and stopping the sandbox of a project, in this terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from claude_sandbox import files, foreground, namespaces, procs, terminal
from claude_sandbox.errors import ConflictError, SandboxError, shown
from claude_sandbox.host import Host
from claude_sandbox.procs import Process
from claude_sandbox.registry import Record
from claude_sandbox.sandboxes import Request, Sandboxes

from . import settings

_SECRETS = ("ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
_PASSED = ("ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL")
_NAMES = 99
_LOOK_SECONDS = 0.1
_QUIET_LOOKS = 4  # after which nothing is on its way any more from a program that has ended


def run(asked: argparse.Namespace, theirs: Sequence[str]) -> int:
    """What the command line asks for; the exit code."""
    try:
        return _run(asked, theirs)
    except foreground.AskedToEndError as error:
        return 128 + error.number


def _run(asked: argparse.Namespace, theirs: Sequence[str]) -> int:
    if asked.version:
        print(f"claude-sandbox {_version()}")
        return 0
    host = Host.this()
    engine = Sandboxes(host)
    project = project_of(asked.project_dir)
    there = _running(engine, project, asked.backend)
    if asked.stop:
        return _stop(engine, project, there)
    if asked.enter:
        if not there:
            raise SandboxError(f"No sandbox runs on {shown(project)}.", "Start one: claude-sandbox.")
        return engine.enter(there[0].name, theirs)
    if there and not asked.new:
        return _join(engine, there[0], asked, theirs)
    return _start(engine, project, asked, theirs)


def project_of(path: str) -> str:
    """The directory itself, which is what is mounted. Raises SandboxError where there is none."""
    found = os.path.realpath(path)
    if not os.path.isdir(found):
        raise SandboxError(f"There is no directory {shown(path)}.", "Create it, or give another one.")
    return found


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("claude-sandbox")
    except importlib.metadata.PackageNotFoundError:
        return "(from a clone)"


def _running(engine: Sandboxes, project: str, backend: str | None) -> list[Record]:
    """The sandboxes that run on a project, the oldest first; what a killed launcher has left is removed."""
    found = []
    for record in engine.registry.records():
        if record.spec is None or record.spec.project_dir != project or backend not in (None, record.spec.backend):
            continue
        if engine.status(record) == "running":
            found.append(record)
        elif _is_ours(record):
            # Whoever starts it just now, or is through with it, holds it.
            with contextlib.suppress(SandboxError):
                engine.ensure(Request(record.name, "absent"))
    return sorted(found, key=lambda record: record.created_at)


def _is_ours(record: Record) -> bool:
    """Whether this command has made it, and not a playbook or the manager: then nobody wants it once it has ended."""
    base = _base_name(record.asked().project_dir)
    return record.name == base or record.name.startswith(f"{base}-")


def _stop(engine: Sandboxes, project: str, there: Sequence[Record]) -> int:
    if not there:
        _say(f"no sandbox runs on {project}.")
    for record in there:
        # Whoever waits for it in a terminal may be quicker to remove it.
        with contextlib.suppress(ConflictError):
            engine.ensure(Request(record.name, "absent" if _is_ours(record) else "stopped"))
        _say(f"{record.name} has ended.")
    return 0


def _join(engine: Sandboxes, record: Record, asked: argparse.Namespace, theirs: Sequence[str]) -> int:
    _say(f"joining {record.name}, which runs on {record.asked().project_dir} already (--new makes another).")
    attachable = record.instance is not None and not record.instance.foreground and not theirs
    if attachable and asked.shell is (record.asked().agent == ["shell"]):
        return _attached(engine, record)
    return engine.enter(record.name, theirs) if asked.shell else engine.join(record.name, theirs)


def _start(engine: Sandboxes, project: str, asked: argparse.Namespace, theirs: Sequence[str]) -> int:
    params = parameters(engine.host.environ, project, asked, theirs)
    request = Request(
        _free_name(engine, project),
        params=params,
        api_key=engine.host.environ.get("ANTHROPIC_API_KEY"),
        secret_env=_secrets(engine.host.environ, asked.gh_token),
    )
    if asked.grant:
        _tell_skipped(engine, params, asked.grant)
    if params["backend"] == "bubblewrap":
        with terminal.kept():
            return engine.run_here(request)
    if params["backend"] == "vm":
        _say("starting the virtual machine …")
    with foreground.signals():
        engine.ensure(request)
    record = engine.registry.resolve(request.name)
    try:
        return _attached(engine, record)
    finally:
        current = engine.registry.get(request.name)
        if current is not None and engine.status(current) != "running":
            engine.ensure(Request(request.name, "absent"))


def _tell_skipped(engine: Sandboxes, params: Mapping[str, Any], named: Sequence[str]) -> None:
    """Who asks for something by its name is told where it cannot be given."""
    for each in engine.preview(params)["skipped"]:
        if each["grant"] in named:
            _say(f"{each['grant']} is not in the sandbox: {each['why']}.")


def parameters(
    environ: Mapping[str, str], project: str, asked: argparse.Namespace, theirs: Sequence[str]
) -> dict[str, Any]:
    """What a sandbox is asked for, whether it is then made or not."""
    params = settings.merged(
        environ, project, asked.backend, asked.no_network, asked.grant, asked.no_grant, asked.mount
    )
    passed = {name: environ[name] for name in _PASSED if environ.get(name)}
    params["env"] = {**passed, **params.get("env", {})}
    if getattr(asked, "shell", False):
        params |= {"agent": ["shell"], "agent_args": list(theirs)}
    elif theirs:
        params["agent_args"] = list(theirs)
    if params.get("agent_args") in (["--version"], ["--help"]):
        # Nothing will be shown but a line or two.
        params["grants"] |= {"display": False}
    return params


def _secrets(environ: Mapping[str, str], gh_token: bool) -> dict[str, str]:
    found = {name: environ[name] for name in _SECRETS if environ.get(name)}
    return {**found, "GH_TOKEN": _gh_token(environ)} if gh_token else found


def _gh_token(environ: Mapping[str, str]) -> str:
    """The token as the GitHub CLI has it."""
    import subprocess

    for name in ("GH_TOKEN", "GITHUB_TOKEN"):
        if environ.get(name):
            return environ[name]
    try:
        done = subprocess.run(["gh", "auth", "token"], capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        raise SandboxError("--gh-token: gh is not installed, and GH_TOKEN is not set.", "Set GH_TOKEN.") from None
    if done.returncode != 0 or not done.stdout.strip():
        raise SandboxError("--gh-token: gh has no token.", "Log in with: gh auth login.")
    return done.stdout.strip()


def _free_name(engine: Sandboxes, project: str) -> str:
    """A name after the project that no sandbox has."""
    name = _base_name(project)
    taken = set(engine.registry.names())
    names = (name, *(f"{name}-{number}" for number in range(2, _NAMES)))
    free = next((each for each in names if each not in taken), None)
    if free is None:
        raise SandboxError(f"{_NAMES} sandboxes are there for {shown(project)}.", "Remove some of them.")
    return free


def _base_name(project: str) -> str:
    import hashlib
    import re

    words = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(project)).strip("-_")[:40] or "project"
    return f"{words}-{hashlib.sha256(os.fsencode(project)).hexdigest()[:6]}"


def _attached(engine: Sandboxes, record: Record) -> int:
    """Show a session here until it is left or its program ends; that one's exit code, or 0."""
    command, instance = engine.view(record)["attach_command"], record.instance
    if instance is None or command is None:
        raise ConflictError(f"Sandbox {record.name} has just ended.", "Run this again.")
    if os.isatty(0) and os.isatty(1):
        _show(str(command), instance.pane)
    else:
        _follow(record.log, instance.pane)
    return _ended(engine, record, f"{record.name} goes on: claude-sandbox joins it, claude-sandbox --stop ends it.")


def _show(command: str, pane: Process) -> None:
    """Run what shows a session in this terminal, until it ends or what it shows does."""
    import shlex
    import subprocess

    with foreground.signals(), terminal.kept():
        client = subprocess.Popen(
            shlex.split(command),
            preexec_fn=lambda: namespaces.die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - it calls the kernel alone
        )
        try:
            shows = procs.identify(client.pid)
            if shows is not None:
                procs.until_one_ends((shows, pane))
        finally:
            client.terminate()
            client.wait()


def _follow(path: str, pane: Process) -> None:
    """Without a terminal: pass on what the session's program writes, until it ends."""
    log, quiet = files.open_regular(path), 0
    while quiet < _QUIET_LOOKS:
        over = not pane.alive()
        piece = log.read() if log is not None else b""
        if piece:
            quiet = 0
            sys.stdout.buffer.write(piece.replace(b"\r\n", b"\n"))
            sys.stdout.buffer.flush()
            continue
        if log is None or _is_another(log, path):
            log = files.open_regular(path)
        quiet += over
        if over:
            time.sleep(_LOOK_SECONDS)
        else:
            pane.wait(_LOOK_SECONDS)


def _is_another(log: BinaryIO, path: str) -> bool:
    """Whether the log has begun in a new file."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path, follow_symlinks=False).st_ino != os.fstat(log.fileno()).st_ino
    return False


def _ended(engine: Sandboxes, record: Record, otherwise: str) -> int:
    """The exit code of a program that has ended; 0, and a word about it, where it goes on."""
    current = engine.registry.get(record.name)
    if current is None or engine.status(current) == "stopped":
        return 0
    if engine.status(current) == "running":
        _say(otherwise)
        return 0
    end = time.monotonic() + 2
    while (code := engine.view(current)["exit_code"]) is None and time.monotonic() < end:
        time.sleep(0.05)
    return code if isinstance(code, int) else 1


def _say(text: str) -> None:
    print(f"claude-sandbox: {text}", file=sys.stderr)
