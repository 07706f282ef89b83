"""What the plugins make of what a host says, and how they ask many hosts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError

from ansible_collections.claude_code.nix_sandbox.plugins.inventory.sandboxes import believed, group_name
from ansible_collections.claude_code.nix_sandbox.plugins.plugin_utils.asking import ask_all
from ansible_collections.claude_code.nix_sandbox.plugins.plugin_utils.carrier import engine

VIEW = {"name": "box", "status": "running", "backend": "vm", "project_dir": "/srv/shop", "network": True, "pid": 7}


def test_a_sandbox_as_variables() -> None:
    found = believed(VIEW, "here")
    assert found["sandbox_name"] == "box"
    assert found["sandbox_host"] == "here"
    assert found["sandbox_exit_code"] is None
    # Only what has a name of its own is taken over.
    assert "sandbox_pid" not in found
    assert all(name.startswith("sandbox_") for name in found)


@pytest.mark.parametrize(
    "view",
    [
        None,
        [],
        {},
        {**VIEW, "name": "a b"},
        {**VIEW, "name": "box\n"},
        {**VIEW, "name": "{{ 7 }}"},
        {**VIEW, "name": "n" * 64},
        {**VIEW, "name": 7},
        {**VIEW, "status": "all"},
        {**VIEW, "backend": "../x"},
        {**VIEW, "network": "yes"},
        {**VIEW, "exit_code": True},
        {**VIEW, "project_dir": ["/srv"]},
        {**VIEW, "project_dir": "/" + "x" * 5000},
        {**VIEW, "project_dir": "/\ud800"},
        {**VIEW, "reason": {"a": 1}},
    ],
)
def test_what_is_not_believed(view: Any) -> None:
    with pytest.raises(ValueError, match=r"sandbox|mapping"):
        believed(view, "here")


def test_names_of_groups() -> None:
    assert group_name("sandbox_project_srv/shop.old-ü") == "sandbox_project_srv_shop_old__"
    assert group_name("{{ lookup('pipe', 'x') }}\x1b[31m\n").replace("_", "").isalnum()
    long = [group_name("p" * 300 + end) for end in "ab"]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 80


def test_all_are_asked(tmp_path: Path) -> None:
    """At most so many at a time; each has its own reply, in the order of the questions."""

    def count() -> int:
        mark = tmp_path / str(os.getpid())
        mark.touch()
        try:
            time.sleep(0.05)
            return len(list(tmp_path.iterdir()))
        finally:
            mark.unlink()

    replies = ask_all({str(number): count for number in range(6)}, forks=2, seconds=20)
    assert list(replies) == [str(number) for number in range(6)]
    assert {reply.failure for reply in replies.values()} == {None}
    assert max(reply.answer for reply in replies.values()) <= 2


def _refuses() -> None:
    raise AnsibleError("no way")


def test_failures_are_told() -> None:
    def breaks() -> None:
        os._exit(1)

    def crashes() -> None:
        raise KeyError("x")

    replies = ask_all({"a": _refuses, "b": breaks, "c": crashes, "d": lambda: [1]}, forks=4, seconds=20)
    assert replies["a"].failure == "no way"
    assert "without an answer" in str(replies["b"].failure)
    assert "KeyError" in str(replies["c"].failure)
    assert replies["d"].answer == [1]


def test_none_keeps_the_others_waiting(tmp_path: Path) -> None:
    """One that hangs is ended with what it has started, after its time."""
    child = tmp_path / "child"

    def hangs() -> None:
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        child.write_text(str(pid))
        time.sleep(600)

    began = time.monotonic()
    replies = ask_all({"slow": hangs, "quick": lambda: "here"}, forks=2, seconds=1)
    assert time.monotonic() - began < 10
    assert replies["slow"].failure == "It did not answer within 1 seconds."
    assert replies["quick"].answer == "here"
    pid = int(child.read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_engine_is_whole() -> None:
    modules = json.loads(engine())
    assert {"claude_sandbox", "claude_sandbox.sandboxes", "claude_sandbox.backends.vm"} <= set(modules)
    assert modules["claude_sandbox.backends"][0] is True
    for name, (_is_package, text) in modules.items():
        compile(text, name, "exec")
