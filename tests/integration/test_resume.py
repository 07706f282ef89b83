"""After the host was down: what ran then is started again, and nothing else."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Outcome, Request
from tests.integration.arena import PLAIN, Arena

pytestmark = pytest.mark.usefixtures("as_root")


def _make(arena: Arena, *names: str) -> None:
    for name in names:
        arena.engine.ensure(Request(name, params={"project_dir": str(arena.project), **PLAIN}))


def _go_down(arena: Arena, *names: str) -> None:
    """Have it look as after a boot: no process is left, and what is recorded names another boot."""
    for name in names:
        record = arena.engine.registry.resolve(name)
        instance = record.instance
        assert instance is not None
        for process in (instance.server, instance.pane, instance.init):
            process.signal(signal.SIGKILL)
            process.wait(5)
        path = f"{record.folder}/instance.json"
        with open(path, encoding="utf-8") as file:
            content: dict[str, Any] = json.load(file)
        content["boot_id"] = "another"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)


@pytest.fixture
def after_boot(arena: Arena) -> Iterator[Arena]:
    """One that ran, one that was stopped, and one that has ended since."""
    _make(arena, "ran", "stopped", "ended")
    arena.engine.ensure(Request("stopped", "stopped"))
    _go_down(arena, "ran", "stopped")
    ended = arena.engine.registry.resolve("ended").instance
    assert ended is not None
    os.kill(ended.init.pid, signal.SIGKILL)
    ended.pane.wait(5)
    yield arena
    for name in ("ran", "stopped", "ended"):
        arena.engine.ensure(Request(name, "absent"))


def test_what_ran_runs_again(after_boot: Arena) -> None:
    found = after_boot.engine.resume()
    assert list(found) == ["ran"]
    assert isinstance(found["ran"], Outcome)
    assert {view["name"]: view["status"] for view in after_boot.engine.views()} == {
        "ran": "running",
        "stopped": "stopped",
        "ended": "dead",
    }
    assert after_boot.engine.resume() == {}


def test_one_that_cannot_start_is_named_and_keeps_nobody(arena: Arena) -> None:
    lost = arena.new_project("lost")
    arena.engine.ensure(Request("lost", params={"project_dir": str(lost), **PLAIN}))
    _make(arena, "ran")
    _go_down(arena, "lost", "ran")
    lost.rmdir()
    found = arena.engine.resume()
    assert isinstance(found["lost"], SandboxError)
    assert "lost" in found["lost"].what
    assert isinstance(found["ran"], Outcome)
    for name in ("lost", "ran"):
        arena.engine.ensure(Request(name, "absent"))
