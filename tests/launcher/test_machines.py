"""claude-sandbox with containers, as root, and with virtual machines: shown here, they go on when they are left."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.person import Person

# A virtual machine may be emulated.
PATIENCE = 120.0
LEAVE = "\x02d"


class Root(Person):
    """Root, who makes the account's sandboxes."""

    def become(self) -> None:
        """Stay root."""

    @property
    def registry(self) -> Path:
        return Path("/var/lib/claude-manager/sandboxes")


@pytest.fixture(params=["container", "vm"])
def owner(request: pytest.FixtureRequest, person: Person) -> Iterator[Person]:
    """Whoever types the command: with `container` root."""
    backend = str(request.param)
    needed = "/usr/bin/systemd-nspawn" if backend == "container" else "/usr/local/lib/claude-sandbox/guest/kernel"
    if not os.path.exists(needed):
        pytest.skip(f"there is no {needed}")
    if backend == "vm":
        person.environ["BACKEND"] = "vm"
        yield person
        return
    root = Root(person.account, person.library, person.project, person.api)
    there = root.records()
    root.environ |= {"HOME": str(person.account.root), "USER": "root", "BACKEND": "container"}
    try:
        yield root
        assert [name for name in root.records() if name not in there] == []
    finally:
        root.run("--stop")
        for terminal in root.terminals:
            terminal.child.close(force=True)
        shutil.rmtree(person.account.root / ".config", ignore_errors=True)


def words(owner: Person) -> tuple[str, ...]:
    backend = owner.environ["BACKEND"]
    return ("--backend", backend, "--no-grant", "display")


def left(owner: Person) -> list[str]:
    """The names of what is recorded for the project."""
    return [name for name in owner.records() if name.startswith(owner.project.name[:20])]


def test_its_output_is_passed_on_without_a_terminal(owner: Person) -> None:
    script = "echo first; sleep 1; seq 3000; echo last; exit 7"
    done = owner.run("--shell", *words(owner), "--", "-c", script, timeout=PATIENCE)
    assert done.returncode == 7, done
    lines = done.stdout.splitlines()
    assert lines[:1] == ["first"], lines[:3]
    assert lines[-1:] == ["last"]
    assert len(lines) == 3002
    assert left(owner) == []


def test_left_and_joined_again(owner: Person) -> None:
    terminal = owner.terminal("--shell", *words(owner))
    terminal.line("echo in''side $CLAUDE_SANDBOX")
    terminal.see("inside", timeout=PATIENCE)
    terminal.type(LEAVE)
    assert "goes on: claude-sandbox joins it" in terminal.rest()
    assert terminal.code() == 0
    assert terminal.is_as_before()
    assert len(left(owner)) == 1
    second = owner.terminal("--enter")
    if owner.environ["BACKEND"] == "vm":
        assert "has no second terminal" in second.rest()
        assert second.code() == 1
    else:
        second.see("$")
        second.line("echo be''side; exit 3")
        second.see("beside")
        assert second.code() == 3
    third = owner.terminal("--shell")
    third.see("joining", "inside")
    third.line("exit 5")
    assert third.code(PATIENCE) == 5
    assert third.is_as_before()
    assert owner.run("--stop").returncode == 0
    assert left(owner) == []


def test_ended_with_its_agents_code(owner: Person) -> None:
    terminal = owner.terminal("--shell", *words(owner))
    terminal.line("exit 6")
    assert terminal.code(PATIENCE) == 6
    assert terminal.is_as_before()
    assert left(owner) == []


def test_stopped_from_elsewhere(owner: Person) -> None:
    terminal = owner.terminal("--shell", *words(owner))
    terminal.line("echo in''side")
    terminal.see("inside", timeout=PATIENCE)
    done = owner.run("--stop", timeout=PATIENCE)
    assert "has ended" in done.stderr, done
    terminal.code()
    assert terminal.is_as_before()
    assert left(owner) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_looks_on_is_asked_to_end(owner: Person, number: int) -> None:
    """As when one leaves: the sandbox goes on, and the terminal is as it was."""
    terminal = owner.terminal("--shell", *words(owner))
    terminal.line("echo in''side")
    terminal.see("inside", timeout=PATIENCE)
    terminal.kill(number)
    assert terminal.code() == 128 + number
    assert terminal.is_as_before()
    assert len(left(owner)) == 1
    assert owner.run("--stop", timeout=PATIENCE).returncode == 0
    assert left(owner) == []


def test_claude_in_a_container(owner: Person) -> None:
    if owner.environ["BACKEND"] == "vm":
        pytest.skip("that is a matter of the end-to-end tests: its loopback is another one")
    done = owner.run(*words(owner), "--", "-p", "SAY: from a container", timeout=PATIENCE)
    # It has a terminal there, and leaves that in order.
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, ["from a container"]), done
