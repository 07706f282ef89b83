# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an account that is not root may run by sudo, and nothing else of ours: containers for its own sandboxes.

    container-helper OPERATION STATE_DIR NAME

It takes the name of a sandbox, and reads what is recorded of it in a process that has become the account: whatever is
written there, more than the account's own rights is not to be had by it. What else is needed comes as JSON on the
standard input, from the account, too. The answer is JSON on the standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from . import keys, lifecycle, namespaces, privileged, scope
from .backends import container
from .commands import Invocation
from .errors import SandboxError, shown
from .grants import Bind
from .host import Account, Host, account
from .procs import Process
from .registry import Record, Registry

_INPUT_LIMIT = 64 << 20  # bytes
_UID = re.compile(r"[1-9][0-9]{0,9}\Z", re.ASCII)
_LONG = ("execute", "enter")
_OPERATIONS = ("start", "stop", "execute", "enter", "exists", "mount")
# For a sandbox of any backend, handed on to root as they come.
_OF_SCOPE = ("scope", "limit", "join")


def main() -> None:
    """Do what the arguments say, for the account that ran sudo."""
    os.environ.pop("XDG_RUNTIME_DIR", None)
    try:
        reply = {"value": _done(sys.argv[1:], os.environ.get("SUDO_UID", ""))}
    except SandboxError as error:
        reply = {"what": error.what, "hint": error.hint}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        reply = {"what": f"The container helper could not do this: {shown(words[-1])}.", "hint": ""}
    sys.stdout.write(json.dumps(reply))


def _done(arguments: list[str], sudo_uid: str) -> Any:
    if os.geteuid() != 0 or not _UID.match(sudo_uid):
        raise SandboxError("The container helper is run by sudo, from an account that is not root.", "See sudo(8).")
    if len(arguments) != 3 or arguments[0] not in (*_OPERATIONS, *_OF_SCOPE):
        words = ", ".join((*_OPERATIONS, *_OF_SCOPE))
        raise SandboxError(f"The container helper takes one of {words}, a state directory and a name.")
    try:
        owner = account(pwd.getpwuid(int(sudo_uid)).pw_name)
    except (KeyError, OverflowError):
        raise SandboxError(f"There is no account with the uid {sudo_uid} on this host.") from None
    operation, state_dir, name = arguments
    content = json.loads(sys.stdin.buffer.readline(_INPUT_LIMIT) or b"{}")
    if not isinstance(content, dict):
        raise SandboxError("The container helper reads a JSON object.")
    with _while_asked(operation in _LONG):
        return privileged.serving(
            owner,
            {**container.handlers(owner, trusted=False), **scope.handlers(owner)},
            lambda: _as_account(operation, state_dir, name, content, owner),
        )


@contextlib.contextmanager
def _while_asked(wanted: bool) -> Iterator[None]:
    """Have this process, and with it what it runs inside, end when whoever asked is gone."""
    if not wanted:
        yield
        return
    us = os.getpid()
    watcher = os.fork()
    if watcher == 0:
        try:
            namespaces.die_with_parent()
            # Who asks says no more, and closes its end when it ends, in whatever way.
            while os.read(sys.stdin.fileno(), 4096):
                pass
            os.kill(us, signal.SIGKILL)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)


def _as_account(operation: str, state_dir: str, name: str, content: Mapping[str, Any], owner: Account) -> Any:
    """What is asked for, read and worked out with the account's rights."""
    registry = Registry(state_dir)
    record = registry.get(name) if "/" not in name else None
    if record is None:
        raise SandboxError(f"There is no sandbox {shown(name)} in {shown(state_dir)}.")
    spec = record.asked()
    if operation in _OF_SCOPE:
        return privileged.ask(operation, content)
    if spec.backend != "container" or spec.user not in (None, owner.name):
        raise SandboxError(f"Sandbox {shown(name)} is no container of the account {owner.name}.")
    host, live = Host.this(), lifecycle.running(record, record.instance, owner)
    if operation == "start":
        return _start(host, registry, record, content, owner)
    if operation == "execute":
        return container.execute(host, live, Invocation.from_json(content["invocation"])).to_json()
    if operation == "enter":
        terminal = os.open(str(content["terminal"]), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        return container.interact(host, live, Invocation.from_json(content["invocation"]), terminal)
    if operation == "exists":
        return container.exists(host, live, str(content["path"]))
    if operation == "mount":
        added, binds = ([Bind(**each) for each in content[name]] for name in ("added", "binds"))
        return container.add_mounts(host, live, added, binds)
    return container.end(host, live, float(content["grace"]))


def _start(host: Host, registry: Registry, record: Record, content: Mapping[str, Any], owner: Account) -> Any:
    spec, display = record.asked(), content.get("display")
    pane = content.get("pane")
    if not isinstance(pane, dict) or not {"pid", "start"} <= pane.keys() or not isinstance(content.get("folder"), str):
        raise SandboxError("The container helper was not told where the sandbox is to be shown.")
    lifecycle.preflight(host, spec, owner, registry.state_dir)
    task = lifecycle.Start(
        record=record,
        owner=owner,
        folder=os.path.dirname(content["folder"]),
        store=registry.project_store(spec, owner),
        secrets=keys.variables(record),
        resumes=content.get("resumes") is True,
    )
    begun = lifecycle.begin(host, task)
    job, _granted = lifecycle.assemble(host, task, begun, None if display is None else int(display))
    return container.settle(host, job, Process(int(pane["pid"]), int(pane["start"])), lambda: None).__dict__
