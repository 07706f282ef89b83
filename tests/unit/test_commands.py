"""Commands beside the agent, run here without a sandbox to go into: their pipes, their end and their time."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import commands, privileged, procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.commands import (
    Completed,
    Invocation,
)
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

SHELL = "/bin/bash"
pytestmark = pytest.mark.skipif(not os.path.exists(SHELL), reason=f"this machine has no {SHELL}")
EVERY_BYTE = bytes(range(256))
PATIENCE = 10.0


def stay() -> None:
    """Go nowhere."""


def ran(
    *argv: str,
    enter: Callable[[], None] = stay,
    stdin: bytes = b"",
    timeout: float | None = None,
    cwd: str = "/",
    env: dict[str, str] | None = None,
) -> Completed:
    """How a command ended, run as the engine does: in a fork of its own."""
    given = {"PATH": "/usr/bin:/bin"} if env is None else env
    invocation = Invocation(argv, given, cwd, SHELL, stdin, timeout)
    found: dict[str, Any] = procs.fork(None, lambda: commands.run(invocation, enter).to_json()).result()
    return Completed.from_json(found)


# Shapes.


@pytest.mark.parametrize("timeout", [None, 1.5])
def test_an_invocation_survives_the_round_trip(timeout: float | None) -> None:
    first = Invocation(("a", "ü\n", ""), {"A": "ü", "B": ""}, "/srv/ü", SHELL, EVERY_BYTE, timeout)
    assert Invocation.from_json(json.loads(json.dumps(first.to_json()))) == first


@pytest.mark.parametrize("flag", [True, False])
def test_a_result_survives_the_round_trip(flag: bool) -> None:
    first = Completed(3, EVERY_BYTE, EVERY_BYTE[::-1], flag, not flag)
    assert Completed.from_json(json.loads(json.dumps(first.to_json()))) == first


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"argv": ["a"], "stdin": ""}, id="too-little"),
        pytest.param({"argv": ["a"], "env": {}, "cwd": "/", "shell": "/bin/sh", "stdin": "", "more": 1}, id="too-much"),
        pytest.param({"argv": None, "env": {}, "cwd": "/", "shell": "/bin/sh", "stdin": ""}, id="no-argv"),
        pytest.param({"argv": ["a"], "env": {}, "cwd": "/", "shell": "/bin/sh", "stdin": "€"}, id="no-byte"),
    ],
)
def test_what_is_no_invocation_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Invocation.from_json(content)


# How it ends.


@pytest.mark.parametrize(
    "argv, code",
    [
        pytest.param(("true",), 0, id="success"),
        pytest.param(("sh", "-c", "exit 7"), 7, id="failure"),
        pytest.param(("sh", "-c", "exit 255"), 255, id="largest"),
        pytest.param(("sh", "-c", "kill -TERM $$"), 143, id="signal"),
        pytest.param(("sh", "-c", "kill -KILL $$"), 137, id="kill"),
        pytest.param(("no-such-program",), 127, id="no-such-program"),
        pytest.param(("/nowhere/program",), 127, id="no-such-path"),
        pytest.param(("/etc/passwd",), 126, id="cannot-be-executed"),
        pytest.param(("-c", "exit 5"), 127, id="like-an-option"),
    ],
)
def test_exit_codes(argv: tuple[str, ...], code: int) -> None:
    done = ran(*argv)
    assert (done.code, done.timed_out, done.truncated, done.stdout) == (code, False, False, b"")


def test_both_streams_with_any_byte_in_them(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(EVERY_BYTE)
    done = ran("sh", "-c", f"cat {tmp_path}/bytes; cat {tmp_path}/bytes >&2; echo end >&2")
    assert (done.code, done.stdout, done.stderr) == (0, EVERY_BYTE, EVERY_BYTE + b"end\n")


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_what_is_read_is_what_was_given(size: int) -> None:
    """Also more than a pipe holds in either direction; afterwards it is at its end."""
    content = (EVERY_BYTE * (size // 256 + 1))[:size]
    assert ran("cat", stdin=content).stdout == content


def test_one_that_does_not_read_is_not_waited_for() -> None:
    assert ran("true", stdin=b"x" * 3_000_000, timeout=PATIENCE) == Completed(0, b"", b"")


def test_words_stay_words() -> None:
    words = ("a b", "", "$HOME", "`id`", "*", "--", "ü\n", "'\"")
    assert ran("printf", "%s\\0", *words).stdout.decode().split("\0") == [*words, ""]


def test_the_environment_is_the_given_one() -> None:
    env = {"A": "two\nlines", "EMPTY": "", "LANG": "C.UTF-8"}
    os.environ["OF_THE_ENGINE"] = "1"
    try:
        found = ran("/usr/bin/env", "-0", env=env).stdout.decode()
    finally:
        del os.environ["OF_THE_ENGINE"]
    got = dict(pair.split("=", 1) for pair in found.split("\0") if pair)
    assert {key: value for key, value in got.items() if key not in ("PWD", "SHLVL", "_", "OLDPWD")} == env


@pytest.mark.parametrize("name", ["BASH_ENV", "ENV"])
def test_no_file_that_a_variable_names_is_read(tmp_path: Path, name: str) -> None:
    """It would be run by a shell that nobody asked for."""
    (tmp_path / "file").write_text("echo read; exit 3")
    assert ran("/usr/bin/env", "true", env={name: f"{tmp_path}/file"}) == Completed(0, b"", b"")


def test_where_it_works_and_what_it_makes(tmp_path: Path) -> None:
    odd = tmp_path / "a b'ü"
    odd.mkdir()
    done = ran("sh", "-c", "pwd; umask", cwd=str(odd))
    assert done.stdout.decode() == f"{odd}\n0022\n"


def test_it_has_no_descriptor_but_its_own() -> None:
    with open("/dev/null", "rb") as null:
        os.set_inheritable(null.fileno(), True)
        found = ran("sh", "-c", "ls /proc/$$/fd").stdout.split()
    assert found == [b"0", b"1", b"2"]


def test_a_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(SandboxError, match="'/nowhere' is no directory in it"):
        ran("true", cwd="/nowhere")


def test_a_sandbox_that_cannot_be_entered_is_told() -> None:
    def gone() -> None:
        raise FileNotFoundError

    with pytest.raises(SandboxError, match="could not be entered"):
        ran("true", enter=gone)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its root")
def test_it_goes_in_before_anything_of_it_runs(tmp_path: Path) -> None:
    """The sandbox's own shell is looked for inside."""

    def enter() -> None:
        os.chroot(tmp_path)

    with pytest.raises(SandboxError, match="could not be entered"):
        ran("true", enter=enter)


# Time and size.


def test_time_is_up() -> None:
    begun = time.monotonic()
    done = ran("sh", "-c", "echo before; echo error >&2; sleep 60", timeout=0.5)
    assert time.monotonic() - begun < PATIENCE
    assert done == Completed(124, b"before\n", b"error\n", timed_out=True)


def test_time_is_up_for_one_that_reads_nothing() -> None:
    assert ran("sleep", "60", stdin=b"x" * 3_000_000, timeout=0.3).timed_out


def test_it_ends_with_all_that_it_has_started() -> None:
    done = ran("sh", "-c", "sleep 60 & echo $!; sleep 60", timeout=0.5)
    # Its child is reaped by whoever took it over.
    assert procs.until(lambda: procs.identify(int(done.stdout)) is None, PATIENCE)


def test_one_in_time_is_not_ended() -> None:
    assert ran("sh", "-c", "sleep 0.1; echo after", timeout=PATIENCE).stdout == b"after\n"


def test_what_is_beyond_the_limit_is_dropped_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "OUTPUT_LIMIT", 1000)
    done = ran("sh", "-c", "head -c 300000 /dev/zero; echo end >&2; exit 3")
    assert (done.code, len(done.stdout), done.stderr, done.truncated) == (3, 1000, b"end\n", True)
    exactly = ran("head", "-c", "1000", "/dev/zero")
    assert (len(exactly.stdout), exactly.truncated) == (1000, False)


def test_one_whose_runner_ends_while_it_goes_in_never_begins(tmp_path: Path) -> None:
    """Nobody would be left to end it, and nothing tells it later."""

    def enter() -> None:
        runner = os.getppid()
        (tmp_path / "pid").write_text(str(os.getpid()))
        os.kill(runner, signal.SIGKILL)
        while os.getppid() == runner:
            time.sleep(0.001)

    with pytest.raises(SandboxError):
        ran("/bin/sh", "-c", f"echo >'{tmp_path}/begun'", enter=enter)
    entering = procs.identify(int((tmp_path / "pid").read_text()))
    assert entering is None or entering.wait(PATIENCE)
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("echo $$ >{told}; sleep 60", id="itself"),
        # Nobody else would end that.
        pytest.param("sleep 60 & echo $! >{told}; wait", id="what-it-has-started"),
    ],
)
def test_a_command_ends_with_whoever_runs_it(script: str) -> None:
    """Nothing runs on inside that nobody waits for."""
    reader, writer = os.pipe()

    def work() -> None:
        # The command has no descriptor of this process but its own three.
        told = f"/proc/{os.getpid()}/fd/{writer}"
        commands.run(Invocation(("sh", "-c", script.format(told=told)), {}, "/", SHELL), stay)

    forked = procs.fork(None, work)
    process = procs.identify(int(os.read(reader, 100)))
    assert process is not None
    os.kill(forked.pid, signal.SIGKILL)
    with pytest.raises(SandboxError, match="signal 9"):
        forked.result()
    assert process.wait(PATIENCE)
    os.close(reader)
    os.close(writer)


def test_nothing_begins_for_one_that_has_ended_before(tmp_path: Path) -> None:
    """Whoever asks is killed when its child has not yet been told to end with it."""
    there, begun = tmp_path / "there", tmp_path / "begun"
    over, held = os.pipe()

    def ask() -> None:
        os.close(over)
        asker = procs.identify(os.getpid())
        assert asker is not None
        if os.fork() == 0:
            try:
                there.touch()
                asker.wait(PATIENCE)
                commands.run(Invocation(("/bin/sh", "-c", f"echo >'{begun}'"), {}, "/", SHELL), stay)
            finally:
                os._exit(0)
        signal.pause()

    forked = procs.fork(None, ask)
    os.close(held)
    assert procs.until(there.exists, PATIENCE)
    os.kill(forked.pid, signal.SIGKILL)
    with pytest.raises(SandboxError, match="signal 9"):
        forked.result()
    # Each of them, but no command, has its other end.
    assert os.read(over, 1) == b""
    os.close(over)
    assert not begun.exists()


@pytest.mark.parametrize("byte", [b"\0", b"x", b"\xff"])
def test_whatever_a_command_prints_can_be_handed_on(byte: bytes) -> None:
    """By the helper, whose messages have a limit."""
    whole = byte * commands.OUTPUT_LIMIT
    message = json.dumps(Completed(0, whole, whole).to_json())
    assert len(message) < privileged._LIMIT
