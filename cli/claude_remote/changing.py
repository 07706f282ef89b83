# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands that change: create, start, stop, delete."""

from __future__ import annotations

import json
import os
import re
import sys
import time

from . import text
from .errors import FAILED, OK, USAGE, RemoteError
from .looking import manager_of
from .manager import Manager
from .text import inert, out, out_json, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

_JOB_RULE = re.compile(r"/api/jobs/[0-9a-f]{16}")
_DOING = {"create": "Making", "start": "Starting", "stop": "Stopping", "delete": "Removing"}


def create(options: argparse.Namespace) -> int:
    """Make a sandbox and start it, with the project brought there before where that is asked for."""
    manager = manager_of(options)
    body = _body(options, manager)
    if options.sync is not None:
        from . import transfer

        transfer.bring(manager, options.sync, body["project_dir"], body.get("user"), quiet=options.json)
    view = _done(manager, "create", options.name, "POST", "/api/sandboxes", body)
    return _shown(options, view, f"claude-remote attach {options.name}")


def start(options: argparse.Namespace) -> int:
    """Start a sandbox that is stopped or dead."""
    manager = manager_of(options)
    name = manager.sandbox(options.ref)["name"]
    return _shown(options, started(manager, name), f"claude-remote attach {name}")


def started(manager: Manager, name: str) -> Mapping[str, Any]:
    """Start it, and wait until it runs. Raises RemoteError."""
    return _done(manager, "start", name, "POST", f"/api/sandboxes/{name}/start")


def stop(options: argparse.Namespace) -> int:
    """Stop a sandbox."""
    manager = manager_of(options)
    name = manager.sandbox(options.ref)["name"]
    return _shown(options, _done(manager, "stop", name, "POST", f"/api/sandboxes/{name}/stop"), "")


def delete(options: argparse.Namespace) -> int:
    """Remove a sandbox."""
    manager = manager_of(options)
    name = manager.sandbox(options.ref)["name"]
    query = "?purge=true" if options.purge else ""
    _done(manager, "delete", name, "DELETE", f"/api/sandboxes/{name}{query}")
    if options.json:
        out_json({"name": name, "status": "absent"})
    else:
        out(f"{name} is removed; its project is untouched.")
    return OK


def _shown(options: argparse.Namespace, view: Mapping[str, Any], further: str) -> int:
    if options.json:
        out_json(view)
        return OK
    name, status = inert(view.get("name")), inert(view.get("status"))
    out(f"{name} is {status} ({inert(view.get('backend'))}, {inert(view.get('project_dir'))}).")
    if further and view.get("status") == "running":
        out(f"Attach: {further}")
    return OK


def _done(manager: Manager, action: str, name: str, method: str, path: str, body: object = None) -> Mapping[str, Any]:
    """Have something done, and wait for it. What comes of it: the sandbox as it is then. Raises RemoteError."""
    answer = manager.call(method, path, body, Prefer="respond-async")
    since = time.monotonic()
    if answer.status == 204:
        return {}
    content = _object(answer.body)
    if answer.status != 202:
        return content
    where = answer.headers.get("location", "")
    found = _JOB_RULE.search(where)
    if found is None:
        raise RemoteError(
            "The manager does not say where its work is.", "claude-remote list shows what came of it.", FAILED
        )
    return _waited(manager, action, name, found[0], since)


def _waited(manager: Manager, action: str, name: str, path: str, since: float) -> Mapping[str, Any]:
    with text.Progress(f"{_DOING[action]} {inert(name)}") as progress:
        try:
            while (job := manager.get(path)).get("status") == "running":
                took = time.monotonic() - since
                progress.at(took)
                # What takes long need not be asked for often.
                time.sleep(min(1.0, 0.1 + took / 10))
        except KeyboardInterrupt:
            say(f"{inert(name)}: the server goes on with it; claude-remote list shows what comes of it.")
            raise
    for warning in job.get("warnings") or ():
        say(f"warning: {inert(warning)}")
    problem = job.get("problem")
    if isinstance(problem, dict):
        raise RemoteError(inert(problem.get("detail")), inert(problem.get("hint") or ""), FAILED)
    view = job.get("sandbox")
    return view if isinstance(view, dict) else {}


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RemoteError("The manager's answer is none.", "It is of another version: make them the same.", FAILED)
    return found


# What is asked for


def _body(options: argparse.Namespace, manager: Manager) -> dict[str, Any]:
    """The request. Nothing that was not given is in it, so that the server's defaults hold."""
    given: dict[str, Any] = {
        "name": options.name,
        "backend": options.backend,
        "project_dir": remote_path(manager, options.project_dir),
        "network": False if options.no_network else None,
        "user": options.user,
        "toolchain": options.toolchain,
        "geometry": options.geometry,
        "on_change": options.on_change,
        "resume": True if options.resume else None,
        "agent": options.agent or None,
        "agent_args": options.agent_arg or None,
        "grants": {**dict.fromkeys(options.grant, True), **dict.fromkeys(options.no_grant, False)} or None,
        "mounts": [_mount(each) for each in options.mount] or None,
        "env": dict(_variable(each) for each in options.env) or None,
        "vm": {key: value for key, value in (("memory", options.memory), ("cpus", options.cpus)) if value} or None,
        "secret_env": {name: _of_environ(name, "--secret-env") for name in options.secret_env} or None,
        "api_key": _api_key(options),
    }
    return {key: value for key, value in given.items() if value is not None}


def remote_path(manager: Manager, path: str) -> str:
    """A path on the server as an absolute one: ~ and what begins with no slash is in the home of the login."""
    if path.startswith("/"):
        return path
    if path == "~" or path.startswith("~/"):
        path = path[2:]
    elif path.startswith("~"):
        raise RemoteError(f"{inert(path)}: other accounts' homes are not known here.", "Give the path itself.", USAGE)
    home = manager.link.facts.home
    return os.path.normpath(f"{home}/{path}")


def _variable(word: str) -> tuple[str, str]:
    name, mark, value = word.partition("=")
    if not mark:
        raise RemoteError(f"--env {inert(word)} has no value.", "Give NAME=VALUE.", USAGE)
    return name, value


def _mount(word: str) -> dict[str, str]:
    """SOURCE[:TARGET][:ro|:rw]"""
    source, *more = word.split(":")
    mode = more.pop() if more and more[-1] in ("ro", "rw") else "ro"
    if len(more) > 1 or not source.startswith("/"):
        raise RemoteError(f"--mount {inert(word)} is none.", "Give /SOURCE[:/TARGET][:rw].", USAGE)
    return {"source": source, "target": more[0] if more else source, "mode": mode}


def _api_key(options: argparse.Namespace) -> str | None:
    if options.api_key_env is not None:
        return _of_environ(options.api_key_env, "--api-key-env")
    if not options.api_key_stdin:
        return None
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass("API key: ").strip() or None
    return sys.stdin.readline().strip() or None


def _of_environ(name: str, option: str) -> str:
    value = os.environ.get(name)
    if not value:
        # The word may be the secret itself, given by mistake: it is not shown again.
        raise RemoteError(f"{option}: there is no such variable, or it is empty.", "Give the variable's name.", USAGE)
    return value
