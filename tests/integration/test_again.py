"""What a second run costs: no process at all but the module's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration import playing
from tests.integration.arena import PLAIN, Arena

_MODULES = "ansible_collections.claude_code.nix_sandbox.plugins.modules"


def _run(tmp_path: Path, module: str, args: dict[str, Any], *prefix: str) -> dict[str, Any]:
    """What a module returns, run by the interpreter itself."""
    asked = tmp_path / "args"
    asked.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": args}), encoding="utf-8")
    done = subprocess.run(
        [*prefix, sys.executable, "-m", f"{_MODULES}.{module}", asked],
        env=playing.clean_environment(PYTHONPATH=str(playing.CLONE / ".collections")),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _traced(tmp_path: Path, module: str, args: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a module returns, and the calls by which it started processes.

    Not for one that starts a sandbox: strace stays as long as any of them.
    """
    trace = tmp_path / "trace"
    calls = "trace=execve,execveat,fork,vfork,clone,clone3"
    answer = _run(tmp_path, module, args, "strace", "-f", "-qq", "-e", calls, "-o", str(trace))
    return answer, re.findall(r"^\d+ +(\w+)\(", trace.read_text(encoding="utf-8"), re.MULTILINE)


def test_a_second_run_starts_no_process(arena: Arena, tmp_path: Path) -> None:
    plain = {"project_dir": str(arena.project), **PLAIN}
    whole = {**plain, "grants": {**PLAIN["grants"], "display": True}, "network": False, "env": {"A": "ü"}}
    secret = {"api_key": "key-for-tests", "secret_env": {"TOKEN": "token-for-tests"}}
    one = {"name": "one", **whole, **secret, "state_dir": str(arena.state_dir)}
    two = {"sandboxes": [{"name": "one", **whole, **secret}, {"name": "two", **plain}]}
    both = {**two, "prune": True, "state_dir": str(arena.state_dir)}
    assert _run(tmp_path, "claude_sandboxes", both)["changed"]
    before = {name: arena.pids(name) for name in ("one", "two")}
    assert set(before["one"]) == {"server", "pane", "init", "xvfb"}

    info = {"state_dir": str(arena.state_dir)}
    for module, args in (("claude_sandbox", one), ("claude_sandboxes", both), ("claude_sandbox_info", info)):
        again, calls = _traced(tmp_path, module, args)
        assert not again.get("changed"), again
        assert calls == ["execve"], module
    assert {name: arena.pids(name) for name in before} == before

    # The control: what starts something is seen.
    _, calls = _traced(tmp_path, "claude_sandbox_exec", {**info, "name": "one", "argv": ["true"]})
    assert calls.count("execve") > 1
    assert len(calls) > calls.count("execve")


@pytest.mark.parametrize("state", ["stopped", "absent"])
def test_what_is_over_stays_over(arena: Arena, tmp_path: Path, state: str) -> None:
    args = {"name": "box", "state": state, "state_dir": str(arena.state_dir)}
    _run(tmp_path, "claude_sandbox", {**args, "state": "started", "project_dir": str(arena.project), **PLAIN})
    assert _run(tmp_path, "claude_sandbox", args)["changed"]
    again, calls = _traced(tmp_path, "claude_sandbox", args)
    assert not again["changed"]
    assert calls == ["execve"]
