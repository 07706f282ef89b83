# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an account that is not root may run by sudo, and nothing else of ours: containers for its own sandboxes.

    container-helper OPERATION STATE_DIR NAME

It takes the name of a sandbox, and reads what is recorded of it in a process that has become the account: whatever is
written there, more than the account's own rights is not to be had by it. What else is needed comes as JSON on the
standard input, from the account, too. The answer is JSON on the standard output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from . import keys, lifecycle, privileged
from .backends import container
from .commands import Invocation
from .errors import SandboxError, shown
from .grants import Bind
from .host import Account, Host, account
from .procs import Process
from .registry import Record, Registry

_INPUT_LIMIT = 64 << 20  # bytes
_OPERATIONS = ("start", "stop", "execute", "enter", "exists", "mount")


def main() -> None:
    """Do what the arguments say, for the account that ran sudo."""
    os.environ.pop("XDG_RUNTIME_DIR", None)
    try:
        reply = {"value": _done(sys.argv[1:], os.environ.get("SUDO_UID", ""))}
    except SandboxError as error:
        reply = {"what": error.what, "hint": error.hint}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reply = {"what": f"The container helper could not do this: {type(error).__name__}: {error}.", "hint": ""}
    sys.stdout.write(json.dumps(reply))


def _done(arguments: list[str], sudo_uid: str) -> Any:
    if os.geteuid() != 0 or not sudo_uid.isdigit() or sudo_uid == "0":
        raise SandboxError("The container helper is run by sudo, from an account that is not root.", "See sudo(8).")
    if len(arguments) != 3 or arguments[0] not in _OPERATIONS:
        raise SandboxError(f"The container helper takes one of {', '.join(_OPERATIONS)}, a state directory and a name.")
    owner = account(int(sudo_uid))
    operation, state_dir, name = arguments
    content = json.loads(sys.stdin.buffer.read(_INPUT_LIMIT) or b"{}")
    if not isinstance(content, dict):
        raise SandboxError("The container helper reads a JSON object.")
    return privileged.serving(
        owner, container.handlers(owner, trusted=False), lambda: _as_account(operation, state_dir, name, content, owner)
    )


def _as_account(operation: str, state_dir: str, name: str, content: Mapping[str, Any], owner: Account) -> Any:
    """What is asked for, read and worked out with the account's rights."""
    registry = Registry(state_dir)
    record = registry.get(name) if "/" not in name else None
    if record is None:
        raise SandboxError(f"There is no sandbox {shown(name)} in {shown(state_dir)}.")
    spec = record.asked()
    if spec.backend != "container" or spec.user not in (None, owner.name):
        raise SandboxError(f"Sandbox {shown(name)} is no container of the account {owner.name}.")
    host, live = Host.this(), lifecycle.running(record, record.instance, owner)
    if operation == "start":
        return _start(host, registry, record, content, owner)
    if operation == "execute":
        return container.execute(host, live, Invocation.from_json(content["invocation"])).to_json()
    if operation == "enter":
        # The terminal is the standard error, for sudo passes on no other descriptor.
        return container.interact(host, live, Invocation.from_json(content["invocation"]), sys.stderr.fileno())
    if operation == "exists":
        return container.exists(host, live, str(content["path"]))
    if operation == "mount":
        return container.add_mount(host, live, Bind(**content["bind"]))
    return container.end(host, live, float(content["grace"]))


def _start(host: Host, registry: Registry, record: Record, content: Mapping[str, Any], owner: Account) -> Any:
    spec, display = record.asked(), content["display"]
    lifecycle.preflight(host, spec, owner, registry.state_dir)
    task = lifecycle.Start(
        record=record,
        owner=owner,
        folder=os.path.dirname(str(content["folder"])),
        store=registry.project_store(spec, owner),
        secrets=keys.variables(record),
        resumes=content["resumes"] is True,
    )
    begun = lifecycle.begin(host, task)
    job, _granted = lifecycle.assemble(host, task, begun, None if display is None else int(display))
    pane = Process(int(content["pane"]["pid"]), int(content["pane"]["start"]))
    return container.settle(host, job, pane, lambda: None).__dict__
