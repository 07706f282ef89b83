"""Scopes: what is asked of systemd, and what is refused before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import cgroups, procs, scope
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Account, Host
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.procs import Process

ID = "0123456789ab"
ME = Account("me", os.geteuid(), os.getegid(), "/home/me", "/bin/sh", ())
OTHER = Account("other", os.geteuid() + 1, os.getegid(), "/home/other", "/bin/sh", ())


class Bus:
    """Takes calls, and fails the first few."""

    def __init__(self, failures: int = 0) -> None:
        self.calls: list[Sequence[str]] = []
        self.failures = failures

    def __call__(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.calls.append(words)
        code = int(len(self.calls) <= self.failures)
        return subprocess.CompletedProcess([], code, "", "Call failed: No such process" if code else "")


def me() -> Process:
    found = procs.identify(os.getpid())
    assert found is not None
    return found


def test_what_arrives_is_what_was_sent() -> None:
    task = scope.Scoped(ID, {"tasks": 20, "cpus": 1.5, "memory": None, "io_weight": None}, (Process(5, 6),), "box-1")
    assert scope.Scoped.parse(task.to_json()) == task


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "../../init"},
        {"id": "x.scope"},
        {"id": f"{ID}\n"},
        {"id": 5},
        {"limits": {"Slice": 1}},
        {"limits": {"tasks": "20"}},
        {"limits": {"tasks": True}},
        {"limits": {"tasks": 1}},
        {"limits": {"cpus": float("nan")}},
        {"limits": [1]},
        {"processes": [{"pid": "x", "start": 1}]},
        {"processes": [{"pid": 5}]},
    ],
)
def test_what_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        scope.Scoped.parse({**scope.Scoped(ID, {}).to_json(), **wrong})


def test_only_the_accounts_own_processes_are_moved() -> None:
    scope._check_owner(me(), ME)
    with pytest.raises(SandboxError, match=f"Process {os.getpid()} is not other's"):
        scope._check_owner(me(), OTHER)
    # Who is gone is nobody's.
    scope._check_owner(Process(os.getpid(), 1), OTHER)


def test_a_scope_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = scope.unit_name(ME.uid, ID)
    monkeypatch.setattr(cgroups, "unit", lambda _pid, _ending: unit)
    monkeypatch.setattr(cgroups, "setting", lambda *_words: "20")
    bus = Bus()
    scope._start(bus, scope.Scoped(ID, {"tasks": 20}, (Process(1, 1), me())), ME, ("Slice", "s", "x.slice"))
    (words,) = bus.calls
    assert words[:4] == ["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail"]
    text = " ".join(words)
    assert f"PIDs au 1 {os.getpid()} " in text
    assert "TasksMax t 20" in text
    assert "Slice s x.slice" in text
    assert words[-1] == "0"


def test_without_limits_none_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "unit", lambda _pid, _ending: scope.unit_name(ME.uid, ID))
    bus = Bus()
    scope._start(bus, scope.Scoped(ID, {"tasks": None}, (me(),)), ME)
    assert "Max" not in " ".join(bus.calls[0])


def test_a_limit_that_is_not_kept_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "unit", lambda _pid, _ending: scope.unit_name(ME.uid, ID))
    monkeypatch.setattr(cgroups, "setting", lambda *_words: "max")
    with pytest.raises(SandboxError, match="this host does not keep cpus, tasks"):
        scope._start(Bus(), scope.Scoped(ID, {"tasks": 20, "cpus": 1.0}, (me(),)), ME)


def test_who_ended_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd takes none where one of them is gone."""
    monkeypatch.setattr(cgroups, "unit", lambda _pid, _ending: scope.unit_name(ME.uid, ID))
    with subprocess.Popen(["sleep", "100"]) as child:
        ending = procs.identify(child.pid)
        assert ending is not None
        bus = Bus()

        def call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
            done = bus(words)
            if len(bus.calls) == 1:
                child.kill()
                child.wait()
                return subprocess.CompletedProcess([], 1, "", "Call failed: No such process")
            return done

        scope._start(call, scope.Scoped(ID, {}, (ending, me())), ME)
    assert [words[words.index("au") + 1] for words in bus.calls] == ["2", "1"]


def test_a_changed_limit_may_take_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd answers before the kernel knows."""
    shown = iter(["max", "max", *["20"] * 9])
    monkeypatch.setattr(cgroups, "unit", lambda _pid, _ending: "x.scope")
    monkeypatch.setattr(cgroups, "setting", lambda *_words: next(shown))
    scope._set(Bus(), "x.scope", scope.Scoped(ID, {"tasks": 20}, (me(),)))


def test_a_changed_limit_that_is_never_kept_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "_SETTLING_SECONDS", 0.01)
    monkeypatch.setattr(cgroups, "unit", lambda _pid, _ending: "x.scope")
    monkeypatch.setattr(cgroups, "setting", lambda *_words: "max")
    with pytest.raises(SandboxError, match="this host does not keep tasks"):
        scope._set(Bus(), "x.scope", scope.Scoped(ID, {"tasks": 20}, (me(),)))


@pytest.mark.parametrize("bus, lingers", [(True, True), (True, False), (False, True)])
def test_only_a_user_manager_that_stays_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, bus: bool, lingers: bool
) -> None:
    """One that does not linger ends at the last logout, and so would the sandbox."""
    asked = Bus()
    monkeypatch.setattr(scope, "_LINGER", str(tmp_path))
    monkeypatch.setattr(scope, "_bus", lambda _uid: str(tmp_path / "bus"))
    monkeypatch.setattr(scope, "_user_bus", lambda _host, _owner: asked)
    monkeypatch.setattr(scope, "booted", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(cgroups, "unit", lambda _pid, _ending: scope.unit_name(ME.uid, ID))
    for name, there in (("bus", bus), (ME.name, lingers)):
        if there:
            (tmp_path / name).touch()
    (tmp_path / "busctl").touch(mode=0o755)
    host = Host({"PATH": str(tmp_path)}, 1000)
    placed = scope.place(host, ME, scope.Scoped(ID, {}, (me(),)), "")
    assert (placed, len(asked.calls)) == ((f"user/{scope.unit_name(ME.uid, ID)}", 1) if bus and lingers else ("", 0))


def test_what_systemd_refuses_is_told() -> None:
    with pytest.raises(SandboxError, match="systemd refused it: No such process"):
        scope._start(Bus(failures=9), scope.Scoped(ID, {}, (me(),)), ME)


def test_nothing_is_asked_for_nobody() -> None:
    bus = Bus()
    scope._start(bus, scope.Scoped(ID, {"tasks": 20}, (Process(os.getpid(), 1),)), ME)
    assert bus.calls == []
