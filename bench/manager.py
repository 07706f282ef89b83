# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manager's API: a long list against the same bytes from memory, a new sandbox against the engine by itself."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import spec
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request, Sandboxes

from . import create, place, served
from .figure import Figure, in_turns, milliseconds, ratio, shown

LIST_LIMIT = 3
CREATE_LIMIT = 1.3
_RECORDED = 1000
_LIST_ROUNDS = 150
_CREATE_ROUNDS = 20


def params(where: place.Place, project: str) -> dict[str, Any]:
    """What is asked of a sandbox that has a shell and a screen, and nothing of its account's."""
    grants = {"claude": False, "git": False, "ssh": False, "gh": False, "display": True}
    return {**where.params(project), "user": where.owner.name, "agent": ["shell"], "grants": grants}


def recorded(where: place.Place, sandboxes: Sandboxes, number: int) -> None:
    """Record so many sandboxes that do not run."""
    asked = spec.parse(params(where, "recorded"))
    for each in range(number):
        with sandboxes.registry.claim(f"recorded-{each}", asked, where.owner):
            pass


def listing(where: place.Place) -> Figure:
    """The list of all sandboxes, most of which nobody changes from one look to the next."""
    folder = _folder(where, "manager-list")
    sandboxes = Sandboxes(state_dir=f"{folder}/state")
    recorded(where, sandboxes, _RECORDED)
    with (
        served.manager(folder, sandboxes.registry.state_dir) as manager,
        served.connected(manager) as ours,
    ):
        content = ours.get("/api/sandboxes")
        if [each["name"] for each in json.loads(content)] != sandboxes.registry.names():
            raise RuntimeError("the list is not what is recorded")
        with open(f"{folder}/content", "xb") as file:
            file.write(content)
        with served.plain(folder, file.name) as plain, served.connected(plain) as floor:
            if floor.get("/content") != content:
                raise RuntimeError("the plain server gives something else")
            work = {
                "from memory": lambda: milliseconds(lambda: floor.get("/content")),
                "list": lambda: milliseconds(lambda: ours.get("/api/sandboxes")),
            }
            samples = in_turns(_LIST_ROUNDS, work)
    notes = (shown(samples), f"{_RECORDED} sandboxes, {len(content)} bytes")
    return Figure("manager-list", ratio(samples["list"], samples["from memory"]), LIST_LIMIT, notes)


def creation(where: place.Place) -> Figure:
    """A new sandbox by the API, until it runs, against the engine in this process."""
    folder = _folder(where, "manager-create")
    request = Request("new", params=params(where, "create-by-manager"))
    with (
        place.registry(f"{folder}/by-engine") as alone,
        place.registry(f"{folder}/by-manager") as behind,
        served.manager(folder, behind.registry.state_dir) as manager,
        served.connected(manager) as client,
    ):
        work = {
            "engine": lambda: create.creation(alone, request),
            "manager": lambda: _created(client, behind, request),
        }
        samples = in_turns(_CREATE_ROUNDS, work)
    ratio_of_both = ratio(samples["manager"], samples["engine"])
    return Figure("manager-create", ratio_of_both, CREATE_LIMIT, (shown(samples),))


def _created(client: served.Client, sandboxes: Sandboxes, request: Request) -> float:
    """How long it takes until the answer says that it runs, in milliseconds."""
    body = json.dumps({"name": request.name, **(request.params or {})}).encode()
    answers: list[tuple[int, bytes]] = []
    try:
        took = milliseconds(lambda: answers.append(client.call("POST", "/api/sandboxes", body)))
        status, content = answers[0]
        if status != 201 or json.loads(content)["status"] != "running":
            raise RuntimeError(f"it was not made: {status} {content.decode(errors='replace')}")
        return took
    finally:
        place.remove(sandboxes, request.name)


def _folder(where: place.Place, name: str) -> str:
    """A folder of whoever runs the bench, through which the account passes."""
    path = f"{where.folder}/{name}"
    os.mkdir(path, 0o711)
    return path
