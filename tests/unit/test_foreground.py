"""A command with the streams of this process: what it gets of it, and how the two end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import foreground, instance, procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends.base import Command
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.procs import Process
from tests.support.signals import mask

SECONDS = 10.0


def opened(folder: Path, script: str) -> Process:
    """A script, started as a sandbox's command is."""
    Path(instance.launch_folder(str(folder))).mkdir()
    found = foreground.Opening(str(folder), Command(("/bin/sh", "-c", script), (), {}, {})).up()
    assert found.server.pid == os.getpid()
    return found.pane


def in_a_child(work: Callable[[], int]) -> int:
    """The exit code of a process that does the work, for it meddles with signals."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("it goes on")


def waited(folder: Path, script: str, meanwhile: Callable[[], None] = lambda: None) -> int:
    """What waiting for a script comes to, in another process."""

    def work() -> int:
        with foreground.signals():
            pane = opened(folder, script)
            foreground.hold()
            meanwhile()
            return foreground.wait(pane)

    return in_a_child(work)


@pytest.mark.parametrize(
    "script, code",
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("sleep 0.3; exit 2", 2)],
)
def test_how_it_ends(tmp_path: Path, script: str, code: int) -> None:
    assert waited(tmp_path, script) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_we_wait(tmp_path: Path, number: int) -> None:
    """Also one that comes before we begin to."""
    assert waited(tmp_path, "sleep 60", lambda: os.kill(os.getpid(), number)) == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_keys_are_not_for_us(tmp_path: Path, number: int) -> None:
    assert waited(tmp_path, "sleep 0.2; exit 3", lambda: os.kill(os.getpid(), number)) == 3


def test_a_hangup_that_is_ignored_stays_so(tmp_path: Path) -> None:
    def work() -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return waited(tmp_path, "sleep 0.2; exit 3", lambda: os.kill(os.getpid(), signal.SIGHUP))

    assert in_a_child(work) == 3


def _end_while_starting(undone: list[bool]) -> None:
    with foreground.signals(), contextlib.ExitStack() as undo:
        undo.callback(undone.append, True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS)


def test_a_signal_while_it_starts_undoes_that() -> None:
    undone: list[bool] = []
    with pytest.raises(foreground.AskedToEndError) as caught:
        _end_while_starting(undone)
    assert caught.value.number == signal.SIGTERM
    assert undone == [True]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_all_is_as_before_afterwards(tmp_path: Path) -> None:
    """And what was asked a second time, while all was ended, does not end us now."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)

    def work() -> int:
        before = [signal.getsignal(number) for number in numbers]
        with foreground.signals():
            pane = opened(tmp_path, "sleep 60")
            foreground.hold()
            os.kill(os.getpid(), signal.SIGTERM)
            foreground.wait(pane)
            os.kill(os.getpid(), signal.SIGTERM)
        assert [signal.getsignal(number) for number in numbers] == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        return 4

    assert in_a_child(work) == 4


def test_it_has_nothing_of_ours(tmp_path: Path) -> None:
    """No open file, no ignored or blocked signal, no variable; the usual umask."""
    out = tmp_path / "out"
    script = (
        f"ls /proc/self/fd > {out}; grep -E 'SigBlk|SigIgn' /proc/self/status >> {out}; umask >> {out}; env >> {out}"
    )
    with open("/etc/hosts") as file:
        os.set_inheritable(file.fileno(), True)
        assert waited(tmp_path, script) == 0
    words = out.read_text().split()
    assert words[:4] == ["0", "1", "2", "3"], words
    assert [words[4], words[6], words[8]] == ["SigBlk:", "SigIgn:", "0022"], words
    assert [mask(words[5]), mask(words[7])] == [0, 0], words
    assert set(words[9:]) <= {
        f"CLAUDE_SANDBOX_RUNTIME={tmp_path}",
        "PATH=/usr/bin:/bin",
        f"PWD={os.getcwd()}",
        "OLDPWD=/",
        "_=/usr/bin/env",
        "SHLVL=0",
    }


def test_what_a_killed_process_has_left_is_found_again(tmp_path: Path) -> None:
    """bwrap's first process is an orphan where its parent is killed before it has asked to end with it."""
    pane = opened(tmp_path, "exec sleep 60")
    procs.until(lambda: procs.command_name(pane.pid) == "sleep", SECONDS)
    foreground.sweep(str(tmp_path / "another"), os.geteuid())
    assert pane.alive()
    foreground.sweep(str(tmp_path), os.geteuid())
    assert not pane.alive()
    os.waitpid(pane.pid, 0)


def test_it_ends_with_us(tmp_path: Path) -> None:
    def work() -> int:
        pane = opened(tmp_path, "exec sleep 60")
        (tmp_path / "pid").write_text(str(pane.pid))
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert in_a_child(work) == -signal.SIGKILL
    left = procs.identify(int((tmp_path / "pid").read_text()))
    assert left is None or left.wait(SECONDS)
