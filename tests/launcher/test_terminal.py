"""claude-sandbox in a real terminal: the real Claude Code, keys, signals, and several terminals at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.launcher.person import PROMPT, Person, Terminal, soon

# A shell that asks for no screen is up at once.
SHELL = ("--shell", "--no-grant", "display")
READY = "ready-now"


def shell(person: Person, *words: str, **how: object) -> Terminal:
    """A shell in a sandbox, at its prompt."""
    found = person.terminal(*SHELL, *words, **how)  # type: ignore[arg-type]
    prompted(found)
    return found


def prompted(terminal: Terminal) -> None:
    """Wait for a shell to take lines."""
    terminal.line("PS1='> '; echo ready-''now")
    terminal.see(READY, "> ")


def test_claude_in_ones_own_terminal(person: Person) -> None:
    """From its start to its end: an answer, another size, an interruption, and the terminal as it was."""
    terminal = person.terminal("--", "--dangerously-skip-permissions")
    terminal.see(PROMPT)
    terminal.type("SAY: hello there")
    time.sleep(0.5)
    terminal.type("\r")
    terminal.see("● hello there")
    assert not terminal.is_as_before()
    terminal.child.setwinsize(30, 70)
    terminal.see("─" * 70)
    # What Ctrl-C interrupts is what it does, and not us.
    terminal.type("RUN: sleep 631")
    time.sleep(0.5)
    terminal.type("\r")
    assert soon(lambda: any(line.endswith("sleep 631") for line in person.processes()))
    terminal.type("\x03")
    terminal.see("Interrupted")
    assert person.sandboxes()[0]["status"] == "running"
    assert terminal.interrupt() == 0
    assert terminal.is_as_before()
    assert person.records() == []


def test_the_size_and_its_changes_reach_what_runs_inside(person: Person) -> None:
    terminal = shell(person)
    terminal.line("bash -c 'trap \"stty size; exit\" WINCH; stty size; while :; do sleep 0.1; done'")
    terminal.see("40 120")
    terminal.child.setwinsize(33, 77)
    terminal.see("33 77")
    terminal.line("exit")
    assert terminal.code() == 0


def test_keys_interrupt_what_runs_inside_alone(person: Person) -> None:
    terminal = shell(person)
    for key, name in (("\x03", "130"), ("\x1c", "131")):
        terminal.line("echo be''gun; sleep 600")
        terminal.see("begun")
        time.sleep(0.2)
        terminal.type(key)
        terminal.line("echo was=$?")
        terminal.see(f"was={name}")
    terminal.line("exit 4")
    assert terminal.code() == 4
    assert terminal.is_as_before()


def test_jobs_in_a_shell(person: Person) -> None:
    terminal = shell(person)
    terminal.line("sleep 600")
    time.sleep(0.3)
    terminal.type("\x1a")
    terminal.see("Stopped")
    terminal.line("jobs")
    terminal.see("sleep 600")
    terminal.line("bg; jobs -r")
    terminal.see("Running")
    terminal.line("fg")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.line("exit 0")
    assert terminal.code() == 0


def test_it_is_a_job_of_the_shell_outside(person: Person) -> None:
    """Ctrl-Z stops what has no keys of its own, with the launcher, and fg goes on with both."""
    terminal = person.terminal(argv=["/bin/bash", "--norc", "-i"])
    prompted(terminal)
    words = " ".join(person.argv(*SHELL))
    terminal.line(f"{words} -- -c 'echo be''gun; sleep 3; echo en''ded; exit 6'")
    terminal.see("begun")
    terminal.type("\x1a")
    terminal.see("Stopped")
    terminal.line("echo out''side; fg")
    terminal.see("outside", "ended")
    terminal.line("echo code=$?")
    terminal.see("code=6")
    terminal.line("exit")
    assert terminal.code() == 0


def test_claude_stopped_and_gone_on_with(person: Person) -> None:
    """Its own Ctrl-Z stops it alone; another one is for the shell outside, and fg goes on with both."""
    terminal = person.terminal(argv=["/bin/bash", "--norc", "-i"])
    prompted(terminal)
    terminal.line(" ".join(person.argv("--no-grant", "display")))
    terminal.see(PROMPT)
    time.sleep(0.5)
    terminal.type("\x1a")
    terminal.see("Claude Code has been suspended")
    time.sleep(0.3)
    terminal.type("\x1a")
    terminal.see("Stopped")
    terminal.line("echo out''side; fg")
    terminal.see("outside", PROMPT)
    time.sleep(0.5)
    terminal.type("SAY: and on")
    time.sleep(0.5)
    terminal.type("\r")
    terminal.see("● and on")
    time.sleep(0.5)
    terminal.type("\x03")
    terminal.see("Press Ctrl-C again to exit")
    terminal.type("\x03")
    time.sleep(1)
    terminal.line("echo code=$?; exit")
    terminal.see("code=0")
    assert terminal.code() == 0


def test_after_it_the_shell_outside_has_its_terminal_again(person: Person) -> None:
    """A shell inside makes itself the terminal's foreground: nobody would be left in it."""
    terminal = person.terminal(argv=["/bin/bash", "--norc", "-i"])
    prompted(terminal)
    terminal.line(" ".join(person.argv(*SHELL)))
    prompted(terminal)
    terminal.line("exit 5")
    terminal.line("echo code=$?; stty -a | grep -c -w echo")
    terminal.see("code=5", "1")
    terminal.line("exit")
    assert terminal.code() == 0


def test_after_it_a_script_has_its_terminal_again(person: Person) -> None:
    """A script has no jobs, and does not make itself the terminal's foreground again."""
    terminal = below_a_shell(person, *SHELL)
    prompted(terminal)
    terminal.line("exit 5")
    terminal.see("ended=5")
    terminal.line("words")
    terminal.see("got=words")
    assert terminal.code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end(person: Person, number: int) -> None:
    """The agent goes, with all that it drew, and so does its record."""
    terminal = person.terminal()
    terminal.see(PROMPT)
    assert not terminal.is_as_before()
    terminal.kill(number)
    assert terminal.code() == 128 + number
    assert terminal.is_as_before()
    assert person.processes() == []
    assert person.records() == []


def below_a_shell(person: Person, *words: str) -> Terminal:
    """The launcher, below what leads the terminal's session: with that one's end the kernel cleans the terminal."""
    script = f"{' '.join(person.argv(*words))}; echo en''ded=$?; read line && echo go''t=$line"
    return person.terminal(argv=["/bin/sh", "-c", script])


def kill_below(terminal: Terminal, number: int) -> None:
    """Send the launcher below a shell a signal."""
    launcher = int(Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()[0])
    os.kill(launcher, number)


def test_killed(person: Person) -> None:
    """Nothing is left that would end it, and still it ends, and the terminal can be used."""
    terminal = below_a_shell(person)
    terminal.see(PROMPT)
    assert not terminal.is_as_before()
    kill_below(terminal, signal.SIGKILL)
    terminal.see("ended=137")
    assert soon(terminal.is_as_before, 5)
    # It left the other screen and the mouse, too.
    terminal.line("")
    assert "\x1b[?1003l" in terminal.raw_rest()
    assert soon(lambda: person.processes() == [], 5), person.processes()
    assert person.sandboxes()[0]["status"] == "dead"
    assert person.run(*SHELL, "--", "-c", "true").returncode == 0
    assert person.records() == []


def test_its_window_is_closed(person: Person) -> None:
    terminal = shell(person)
    terminal.line("sleep 600")
    time.sleep(0.2)
    terminal.close()
    assert soon(lambda: person.processes() == [], 10), person.processes()
    assert soon(lambda: person.records() == [])


def test_a_second_terminal_joins(person: Person) -> None:
    first = person.terminal()
    first.see(PROMPT)
    second = person.terminal("--", "--dangerously-skip-permissions")
    second.see("joining", "runs on", PROMPT)
    (record,) = person.sandboxes()
    second.type("RUN: touch from-the-second; echo $CLAUDE_SANDBOX > name")
    time.sleep(0.5)
    second.type("\r")
    assert soon((person.project / "name").exists, 20)
    assert (person.project / "name").read_text().strip() == record["name"]
    for terminal in (second, first):
        assert terminal.interrupt() == 0
        assert terminal.is_as_before()
    assert person.records() == []


def test_a_shell_beside_it_sees_the_same(person: Person) -> None:
    first = shell(person)
    first.line("echo in-memory > ~/file; sleep 31.25 & echo un''der $!")
    first.see("under")
    second = person.terminal("--enter")
    prompted(second)
    second.line("cat ~/file; ps ax | grep -c '[s]leep 31.25'; readlink /proc/self/ns/pid")
    shown = second.see("in-memory", "1", "pid:[", "]")
    first.line("readlink /proc/self/ns/pid")
    assert shown.split("pid:[")[1].split("]")[0] in first.see("pid:[", "]")
    second.line("exit 8")
    assert second.code() == 8
    assert second.is_as_before()
    assert person.sandboxes()[0]["status"] == "running"
    first.line("exit")
    assert first.code() == 0


def test_who_joined_ends_with_the_first(person: Person) -> None:
    """Their sandbox is the first one's."""
    first, second = shell(person), None
    second = person.terminal("--enter")
    prompted(second)
    first.line("exit")
    assert first.code() == 0
    assert second.code() == 137
    assert second.is_as_before()


def test_one_who_joined_is_killed(person: Person) -> None:
    """The first goes on, and that terminal can be used."""
    first = shell(person)
    second = below_a_shell(person, "--enter")
    prompted(second)
    assert not second.is_as_before()
    second.line("sleep 77.5")
    assert soon(lambda: any("77.5" in line for line in person.processes()))
    kill_below(second, signal.SIGKILL)
    second.see("ended=137")
    assert soon(second.is_as_before, 5)
    second.line("")
    assert soon(lambda: not any("77.5" in line for line in person.processes()), 5)
    first.line("echo go''es on; exit")
    first.see("goes on")
    assert first.code() == 0


def test_commands_beside_it_by_pipes(person: Person) -> None:
    first = shell(person)
    (record,) = person.sandboxes()
    done = person.run("exec", record["name"], "--", "sh", "-c", "cat; echo $CLAUDE_SANDBOX >&2; exit 3", stdin="a\nb")
    assert (done.returncode, done.stdout, done.stderr) == (3, "a\nb", f"{record['name']}\n")
    done = person.run("exec", record["id"][:6], "--", "sh", "-c", "kill -9 $$")
    assert done.returncode == 137
    first.line("exit")
    assert first.code() == 0


def test_what_is_written_to_a_file_has_no_terminals_line_ends(person: Person) -> None:
    first = shell(person)
    name = person.sandboxes()[0]["name"]
    words = " ".join(person.argv("exec", name, "--", "sh", "-c", "'echo one; echo two >&2'"))
    second = person.terminal(argv=["/bin/sh", "-c", f"{words} > out 2> err; echo through"])
    second.see("through")
    assert second.code() == 0
    assert (person.project / "out").read_bytes() == b"one\n"
    assert (person.project / "err").read_bytes() == b"two\n"
    first.line("exit")
    assert first.code() == 0


def test_stopped_from_elsewhere(person: Person) -> None:
    terminal = person.terminal()
    terminal.see(PROMPT)
    name = person.sandboxes()[0]["name"]
    done = person.run("--stop")
    assert (done.returncode, done.stderr) == (0, f"claude-sandbox: {name} has ended.\n")
    # It is asked to by two signals, and ends by the one that it takes first; or by the third, where it takes neither.
    assert terminal.code() in (129, 137, 143)
    assert terminal.is_as_before()
    assert person.processes() == []
    assert person.records() == []
    assert "no sandbox runs on" in person.run("--stop").stderr


def test_another_one(person: Person) -> None:
    first = shell(person)
    second = shell(person, "--new")
    names = [each["name"] for each in person.sandboxes()]
    assert len(names) == 2
    assert names[1] == f"{names[0]}-2"
    for terminal in (first, second):
        terminal.line("echo $CLAUDE_SANDBOX; readlink /proc/self/ns/mnt; exit")
    assert first.rest() != second.rest()
    assert [first.code(), second.code()] == [0, 0]
    assert person.records() == []


_PROBE = r"""
import ctypes, fcntl, os, termios
for name, request, argument in (("TIOCSTI", 0x5412, b"x"), ("TIOCLINUX", 0x541C, b"\x03")):
    for descriptor in (0, 1, 2):
        try:
            fcntl.ioctl(descriptor, request, argument)
            print(name, "typed")
        except OSError as error:
            print(name, error.errno)
# By the upper half of the request, which the kernel ignores.
call = ctypes.CDLL(None, use_errno=True).syscall
print("wide", call(16, 0, ctypes.c_ulong(0x100005412), b"x"), ctypes.get_errno())
"""


@pytest.mark.parametrize("joined", [False, True])
def test_it_cannot_type_into_the_terminal(person: Person, joined: bool) -> None:
    """What it typed there would be read by the shell outside, once it has ended."""
    (person.project / "probe.py").write_text(_PROBE)
    person.account.own(person.project)
    terminal = shell(person)
    tried = terminal
    if joined:
        tried = person.terminal("--enter")
        prompted(tried)
    tried.line("python3 probe.py; echo tri''ed")
    shown = tried.see("tried")
    assert shown.count("TIOCSTI 1") == 3, shown
    assert shown.count("TIOCLINUX 1") == 3, shown
    assert "wide -1 1" in shown
    for each in dict.fromkeys((tried, terminal)):
        each.line("exit")
        assert each.code() == 0


def test_the_probe_can_fail(person: Person) -> None:
    """Outside, where nothing forbids it, one may type into one's own terminal."""
    if Path("/proc/sys/dev/tty/legacy_tiocsti").exists():
        setting = Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip()
        if setting != "1":
            pytest.skip("this kernel forbids it to all")
    (person.project / "probe.py").write_text(_PROBE)
    person.account.own(person.project)
    terminal = person.terminal(argv=["/usr/bin/python3", "probe.py"])
    assert "TIOCSTI typed" in terminal.rest()
    terminal.code()


def test_it_sees_nothing_of_the_launcher(person: Person) -> None:
    """No process but its own: neither the launcher's environment nor what it has open."""
    terminal = person.terminal(*SHELL, env={"LAUNCHERS_OWN": "secret-of-the-launcher"})
    prompted(terminal)
    look = "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c -e ^LAUNCHERS; ls /proc | grep -c '^[0-9]'"
    terminal.line(f"{look}; echo se''en")
    shown = terminal.see("seen")
    assert shown.split()[-3] == "0", shown
    terminal.line("kill -0 $PPID; ls -l /proc/*/fd | grep -c lib/claude; exit")
    terminal.rest()
    assert terminal.code() in (0, 1)


def test_idle_it_takes_no_time(person: Person) -> None:
    """It sleeps until something happens."""
    terminal = shell(person)
    before = _switches(terminal.pid)
    time.sleep(2)
    assert _switches(terminal.pid) - before <= 1
    terminal.line("exit")
    assert terminal.code() == 0


def _switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_a_shell_that_ignores_hangups(person: Person) -> None:
    """Under nohup the terminal's end is not its end."""
    terminal = person.terminal(argv=["/bin/sh", "-c", f"trap '' HUP; exec {' '.join(person.argv(*SHELL))}"])
    prompted(terminal)
    os.kill(terminal.pid, signal.SIGHUP)
    terminal.line("echo still he''re; exit 0")
    terminal.see("still here")
    assert terminal.code() == 0
