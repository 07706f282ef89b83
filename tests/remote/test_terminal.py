# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""attach and exec in a real terminal, and what they leave of it."""

from __future__ import annotations

import os
import signal
import termios
import time
from typing import Any

import pexpect
import pytest

from tests.manager.served import Served
from tests.remote.server import Laptop, Server, below

ECHO_AND_LINES = termios.ECHO | termios.ICANON | termios.ISIG


def _modes(terminal: Any) -> int:
    """The local modes of the terminal that are on, of those that a shell needs."""
    return int(termios.tcgetattr(terminal.child_fd)[3]) & ECHO_AND_LINES


def _attached(here: Laptop, *words: str) -> Any:
    # A shell, so that the terminal is there still when the program has ended.
    shell = here.spawn(*words)
    shell.expect(r"\$ ")
    return shell


@pytest.mark.parametrize("login", ["account", "root"])
def test_attach(here: Laptop, as_root: Laptop, served: Served, login: str) -> None:
    """As the account itself and, through root, as another one."""
    served.make("one", agent=["sh", "-c", "PS1='box$ ' exec sh"])
    terminal = (here if login == "account" else as_root).spawn("attach", "one")
    terminal.expect(r"box\$ ")
    terminal.send("echo $((41+1))x\r")
    terminal.expect("42x")
    terminal.send("\x02d")
    terminal.expect("detached")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
    assert "\x1b[?1000l\x1b[?1002l" not in str(terminal.before)
    assert served.call("GET", "/api/sandboxes/one").json()["status"] == "running"


@pytest.mark.parametrize("how", ["by the server", "by a kill"])
def test_a_lost_connection_leaves_the_terminal_whole(here: Laptop, served: Served, server: Server, how: str) -> None:
    served.make("one", agent=["sh", "-c", "printf '\\033[?1000h\\033[?1049h'; PS1='box$ ' exec sh"])
    terminal = here.spawn("attach", "one")
    before = ECHO_AND_LINES
    terminal.expect(r"box\$ ")
    assert _modes(terminal) != before, "the session does not have the terminal"
    if how == "by the server":
        server.cut()
    else:
        for pid in below(terminal.pid):
            os.kill(pid, signal.SIGKILL)
    terminal.expect("The connection was lost; one goes on. claude-remote attach one")
    sent = str(terminal.before)
    assert "\x1b[?1049l" in sent.rpartition("box$")[2]
    assert "\x1b[?1000l" in sent.rpartition("box$")[2]
    assert _modes(terminal) == before
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 5
    assert served.call("GET", "/api/sandboxes/one").json()["status"] == "running"


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_stopped_one_can_be_started(here: Laptop, served: Served, answer: str) -> None:
    served.make("one", agent=["sh", "-c", "PS1='box$ ' exec sh"])
    assert served.call("POST", "/api/sandboxes/one/stop").status_code == 200
    terminal = here.spawn("attach", "one")
    terminal.expect_exact("Sandbox one is stopped. Start it? [y/N]")
    terminal.send(f"{answer}\r")
    if answer == "y":
        terminal.expect(r"box\$ ")
        terminal.send("\x02d")
    else:
        terminal.expect_exact("claude-remote start one")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == (0 if answer == "y" else 1)


def test_a_terminal_of_a_kind_that_the_server_does_not_know(here: Laptop, served: Served) -> None:
    served.make("one", agent=["sh", "-c", "PS1='box$ ' exec sh"])
    terminal = here.spawn("attach", "one", environ={"TERM": "xterm-of-tomorrow"})
    terminal.expect(r"box\$ ")
    terminal.send("\x02d")
    terminal.expect(pexpect.EOF)


def test_attach_needs_a_terminal(here: Laptop, served: Served) -> None:
    served.make("one")
    refused = here.run("attach", "one")
    assert (refused.returncode, "needs a terminal" in refused.stderr) == (1, True)


def test_exec(here: Laptop, served: Served, server: Server) -> None:
    """By what the server has for it: words, streams and the exit code pass through unchanged."""
    served.make("one")
    missing = here.run("exec", "one", "--", "true")
    assert (missing.returncode, "has no claude-sandbox on its PATH" in missing.stderr) == (1, True)
    launcher = server.bin / "claude-sandbox"
    launcher.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"; cat; echo bad >&2; exit 42\n")
    launcher.chmod(0o755)
    try:
        words = ["sh", "-c", "echo '$HOME'; $(touch /tmp/x)", "--", "a b\n*", "-t"]
        done = here.run("exec", "one", "--", *words, input="fed in")
        assert done.stdout == "".join(f"<{word}>" for word in ("exec", "one", "--", *words)) + "fed in"
        assert (done.returncode, done.stderr) == (42, "bad\n")
        terminal = here.spawn("exec", "one", "--", "x")
        terminal.expect("<x>")
        terminal.sendeof()
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 42
        assert here.run("exec", "two", "--", "true").returncode == 3
    finally:
        launcher.unlink()


def test_a_person_sees_colours_and_a_program_none(here: Laptop, served: Served) -> None:
    served.make("one")
    for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        terminal = here.spawn("list", environ=environ)
        terminal.expect(pexpect.EOF)
        assert ("\x1b[32mone\x1b[0m" in str(terminal.before)) == coloured, environ
    assert "\x1b" not in here.run("list").stdout


def test_ctrl_c_while_a_sandbox_is_made(here: Laptop, served: Served) -> None:
    """It ends at once, and says that the server goes on."""
    project = served.project("slow")
    words = ["create", "slow", "bubblewrap", str(project), "--user", served.account.name]
    terminal = here.spawn(*words, "--agent", "shell", "--no-grant", "claude", "--no-grant", "ssh", "--no-grant", "git")
    terminal.expect("Making slow")
    terminal.sendintr()
    terminal.expect("the server goes on with it")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 130
    end = time.monotonic() + 20
    while served.call("GET", "/api/sandboxes").json()[0]["status"] != "running":
        assert time.monotonic() < end
        time.sleep(0.1)
