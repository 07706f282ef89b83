"""claude-sandbox list, doctor, grants, exec, resume; its help; colours; the two other names."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator

import pytest

from tests.launcher.person import Person, Terminal, python

SHELL = ("--shell", "--no-grant", "display")


@pytest.fixture
def running(person: Person) -> Iterator[Terminal]:
    """A sandbox that runs."""
    terminal = person.terminal(*SHELL)
    terminal.line("echo re''ady")
    terminal.see("ready")
    yield terminal
    terminal.line("exit")
    assert terminal.code() == 0


def test_list(person: Person, running: Terminal) -> None:
    shown = person.run("list").stdout.splitlines()
    assert shown[0].split() == ["NAME", "STATUS", "BACKEND", "AGE", "PROJECT"]
    assert shown[1].split()[1:3] == ["running", "bubblewrap"]
    assert shown[1].endswith(str(person.project))
    (found,) = json.loads(person.run("list", "--json").stdout)
    assert (found["status"], found["project_dir"]) == ("running", str(person.project))
    assert found["attach_command"] is None
    assert "\x1b" not in person.run("list").stdout


def test_nothing_to_list(person: Person) -> None:
    assert person.run("list").stdout.startswith("No sandbox is there.")
    assert person.run("list", "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    "env, coloured",
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_on_a_terminal_alone(person: Person, running: Terminal, env: dict[str, str], coloured: bool) -> None:
    terminal = person.terminal("list", env=env)
    assert ("\x1b[32mrunning" in terminal.raw_rest()) is coloured
    assert terminal.code() == 0


def test_doctor(person: Person) -> None:
    done = person.run("doctor")
    assert done.returncode == 0, done
    assert done.stdout.startswith("bubblewrap  works\n")
    assert "container   missing\n" in done.stdout
    found = json.loads(person.run("doctor", "--json").stdout)
    assert found["bubblewrap"] == {"works": True, "problems": []}
    assert set(found["container"]["problems"][0]) == {"what", "hint"}


def test_what_grants_says_is_what_is_given(person: Person) -> None:
    """With the same words, before and inside."""
    (person.project / ".claude-sandbox.toml").write_text("grants.gh = false\n")
    (person.home / ".ssh").mkdir(exist_ok=True)
    # As it is before the first one.
    shutil.rmtree(person.home / ".claude", ignore_errors=True)
    person.account.own(person.home / ".ssh")
    words = ("--no-grant", "git", "--mount", "/usr/share:/shared", "--no-network")
    found = json.loads(person.run("grants", "--json", *words).stdout)
    assert not person.registry.exists() or person.records() == []
    terminal = person.terminal("--shell", *words)
    terminal.line("echo re''ady")
    terminal.see("ready")
    (inside,) = person.sandboxes()
    assert [each["grant"] for each in found["given"]] == inside["given"]
    assert {each["grant"]: each["why"] for each in found["skipped"]} == inside["skipped"]
    assert found["network"] is inside["network"] is False
    assert found["mounts"] == inside["mounts"]
    assert {"git", "gh", "dbus", "keyring"} <= {each["grant"] for each in found["withheld"]}
    terminal.line("exit")
    assert terminal.code() == 0
    (person.home / ".ssh").rmdir()


def test_grants_in_words(person: Person) -> None:
    done = person.run("grants", "--grant", "dbus", env={"DISPLAY": ":77"})
    assert f"reads and writes {person.project}, and nothing else of your home" in done.stdout
    assert "has the network" in done.stdout
    assert "has your login to Claude" in done.stdout
    assert "goes without x11: /tmp/.X11-unix/X77 does not exist" in done.stdout
    assert "goes without dbus:" in done.stdout
    assert "not given: talks to your keyring (keyring)" in done.stdout


def test_names_that_a_terminal_would_obey(person: Person) -> None:
    evil = person.project / "\x1b[31mred\nline"
    evil.mkdir()
    person.account.own(evil)
    done = person.run("grants", str(evil))
    assert "\x1b" not in done.stdout + done.stderr
    assert done.returncode == 1
    assert "has a control character in it" in done.stderr


@pytest.mark.parametrize("words", [(), ("list",), ("doctor",), ("grants",), ("exec",), ("resume",)])
def test_help(person: Person, words: tuple[str, ...]) -> None:
    done = person.run(*words, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {' '.join(('claude-sandbox', *words))} ")
    assert all(len(line) <= 120 for line in done.stdout.splitlines())
    if not words:
        assert "examples:" in done.stdout
        assert "claude-sandbox -- -p" in done.stdout


def test_resume_leaves_alone_what_ended_since_the_host_is_up(person: Person, running: Terminal) -> None:
    done = person.run("resume")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_version(person: Person) -> None:
    assert person.run("--version").stdout.startswith("claude-sandbox ")


@pytest.mark.parametrize("name", ["container", "vm"])
def test_the_other_names_choose_a_backend(person: Person, name: str) -> None:
    code = f"import sys; sys.argv[0] = 'x'; from claude_launcher.__main__ import {name}; {name}()"
    found = json.loads(person.run(argv=[python(), "-c", code, "grants", "--json"]).stdout)
    assert found["backend"] == name


def test_it_answers_at_once(person: Person) -> None:
    """Help and list start no sandbox and load little."""
    since = time.monotonic()
    person.run("list")
    assert time.monotonic() - since < 2
