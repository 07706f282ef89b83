"""The session: real tmux servers, and that every word and keystroke arrives as it was given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import instance, procs, session
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends.base import Command
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host

HOST = Host.this()
PATIENCE = 10.0
pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux")

# Writes its arguments, and what it reads at descriptor 3, one a line; then waits to be ended.
NOTES = """\
import os, sys, time
out = sys.argv[1]
with open(out + ".new", "wb") as file:
    for word in sys.argv[2:]:
        file.write(os.fsencode(word) + b"\\0")
os.rename(out + ".new", out)
time.sleep(60)
"""


class Room:
    """A runtime folder in which one session runs; its path is short enough for a socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "session 'log'"
        self.live: session.Session | None = None
        Path(instance.launch_folder(str(folder))).mkdir()

    def start(self, *argv: str, contents: Mapping[int, bytes] | None = None, title: str = "demo") -> session.Session:
        content = contents or {}
        command = Command(argv, tuple(content), {}, {})
        with session.Pipes(str(self.folder), command) as pipes:
            opening = session.Opening(HOST, str(self.folder), str(self.log), title, command)
            self.live = opening.up()
            if content:
                pipes.feed(content, self.live.pane)
        return self.live

    def python(self, script: str, *argv: str) -> session.Session:
        return self.start(sys.executable, "-c", script, *argv)

    def screen(self) -> str:
        return session.capture(HOST, str(self.folder))

    def shows(self, text: str) -> bool:
        return bool(procs.until(lambda: text in self.screen(), PATIENCE, 0.02))


@pytest.fixture
def room() -> Iterator[Room]:
    # What pytest gives may be too long for the path of a socket.
    folder = Path(tempfile.mkdtemp())
    made = Room(folder)
    yield made
    if made.live:
        for process in (made.live.pane, made.live.server):
            process.end(2)

    def removed() -> bool:
        # The program that writes the log ends only after tmux.
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    assert procs.until(removed, PATIENCE, 0.01)


def noted(path: Path) -> list[str]:
    assert procs.until(path.exists, PATIENCE), "nothing was noted"
    return [os.fsdecode(word) for word in path.read_bytes().split(b"\0")[:-1]]


ODD_WORDS = [
    ";",
    "a;",
    "\\;",
    "a\\;",
    ";;",
    "a\\\\;",
    "; kill-server",
    "{",
    "}",
    "#{pid}",
    "#(touch /tmp/no)",
    "%H",
    "$HOME",
    "`id`",
    "~",
    "*",
    "'",
    '"',
    "\\",
    "\\n",
    "a b\t\nc",
    "",
    "-x",
    "--",
    "ü😀",
    "=",
]


def test_every_argument_arrives_as_it_is(room: Room) -> None:
    out = room.folder / "out"
    room.python(NOTES, str(out), *ODD_WORDS)
    assert noted(out) == ODD_WORDS


@pytest.mark.parametrize("word", [";", "a;", "\\;"])
def test_a_final_semicolon_of_the_last_argument_arrives(room: Room, word: str) -> None:
    """What follows it is a command of tmux's, which the semicolon would swallow or begin."""
    out = room.folder / "out"
    room.python(NOTES, str(out), word)
    assert noted(out) == [word]
    assert procs.until(room.log.exists, PATIENCE), "the command that follows was not carried out"


@pytest.mark.parametrize("text", ["plain", ";", "a;", "\\;", "Enter", "C-c", "-l", "#{pid}", "ü😀", "'$HOME' \"`id`\""])
def test_typed_text_arrives_as_it_is(room: Room, text: str) -> None:
    out = room.folder / "out"
    room.start("sh", "-c", 'stty -echo; printf ready; IFS= read -r line; printf %s "$line" >"$0"; sleep 60', str(out))
    assert room.shows("ready")
    session.send_text(HOST, str(room.folder), text)
    session.send_keys(HOST, str(room.folder), ["Enter"])
    assert procs.until(lambda: out.exists() and out.read_text() == text, PATIENCE)


def test_keys_are_pressed(room: Room) -> None:
    out = room.folder / "out"
    script = 'stty raw -echo; printf ready; dd bs=1 count=6 of="$0.new" 2>/dev/null; mv "$0.new" "$0"; sleep 60'
    room.start("sh", "-c", script, str(out))
    assert room.shows("ready")
    session.send_keys(HOST, str(room.folder), ["a", "C-a", "Enter", ";", "Escape", "x"])
    assert procs.until(out.exists, PATIENCE)
    assert out.read_bytes() == b"a\x01\r;\x1bx"


def test_where_there_is_no_session(room: Room) -> None:
    assert room.screen() == ""
    with pytest.raises(SandboxError, match="tmux did not take the input"):
        session.send_text(HOST, str(room.folder), "text")


def test_it_is_known_by_its_processes(room: Room) -> None:
    live = room.start("sleep", "60")
    assert live.server.alive()
    assert live.pane.alive()
    assert procs.until(lambda: procs.command_name(live.pane.pid) == "sleep", PATIENCE), "the shell stayed in between"
    assert [child.pid for child in procs.children(live.server.pid)][:1] == [live.pane.pid]


def test_a_dead_program_leaves_its_last_screen(room: Room) -> None:
    """A single line may be all that says what went wrong."""
    live = room.start("sh", "-c", "echo last words; exit 3")
    assert live.pane.wait(PATIENCE)
    # tmux may take a moment longer to see that it is over.
    assert procs.until(lambda: tmux(room, "display", "-p", "#{pane_dead}") == ["1"], PATIENCE)
    assert room.screen().splitlines()[0] == "last words"
    assert live.server.alive()


def test_a_program_that_cannot_be_started_leaves_a_dead_pane(room: Room) -> None:
    live = room.start("/nowhere/program")
    assert live.pane.wait(PATIENCE)
    assert room.shows("/nowhere/program")
    assert not live.pane.alive()


def test_history(room: Room) -> None:
    room.start("sh", "-c", "seq 1 200; echo end; sleep 60")
    assert room.shows("end")
    assert "\n1\n" not in f"\n{room.screen()}"
    assert f"\n{session.capture(HOST, str(room.folder), 1000)}".startswith("\n1\n2\n")


def test_the_log_has_the_output(room: Room) -> None:
    room.start("sh", "-c", "sleep 0.2; echo first; sleep 60")
    assert procs.until(lambda: room.log.exists() and b"first" in room.log.read_bytes(), PATIENCE)
    assert room.log.stat().st_mode & 0o077 == 0


PRINTS_MUCH = 'sleep 0.1; i=0; while [ $i -lt 300 ]; do printf "%0100d\n" $i; sleep 0.001; i=$((i + 1)); done; sleep 60'


def test_the_log_of_one_that_prints_without_end_has_the_end_and_fills_no_disk(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOG_LIMIT", 5000)
    room.start("sh", "-c", PRINTS_MUCH)
    assert room.shows("000299")
    old = Path(f"{room.log}.1")

    def kept() -> bytes:
        # The newer of the two may have become the older just now.
        return b"".join(path.read_bytes() for path in (old, room.log) if path.exists())

    assert procs.until(lambda: b"000299\r" in kept(), PATIENCE)
    assert old.exists()
    assert {path for path in room.folder.iterdir() if path.name.startswith(room.log.name)} <= {old, room.log}
    assert len(kept()) < 15_000


def test_the_log_goes_on_however_small_the_pieces(room: Room) -> None:
    room.start("sh", "-c", PRINTS_MUCH)
    assert room.shows("000299")
    assert procs.until(lambda: b"000299\r" in room.log.read_bytes(), PATIENCE)


def test_nothing_of_our_environment_is_the_programs(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    live = room.start("sleep", "60")
    assert procs.until(lambda: procs.command_name(live.pane.pid) == "sleep", PATIENCE)
    for pid in (live.server.pid, live.pane.pid):
        assert b"ANTHROPIC" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_files_are_made_with_the_usual_umask(room: Room) -> None:
    out = room.folder / "out"
    old = os.umask(0o077)
    try:
        room.start("sh", "-c", 'umask >"$0.new"; mv "$0.new" "$0"; sleep 60', str(out))
    finally:
        os.umask(old)
    assert procs.until(out.exists, PATIENCE)
    assert out.read_text() == "0022\n"


BINDINGS = {"d": "detach-client", "C-b": "send-prefix", "]": "paste-buffer", "r": "refresh-client"}


def test_no_key_opens_a_shell_of_the_host(room: Room) -> None:
    """Whoever is attached sees the sandbox: every key that could make a window, or a command prompt, is gone."""
    room.start("sleep", "60")
    found = {line.split()[3]: line.split()[4:] for line in tmux(room, "list-keys") if line.split()[2] == "prefix"}
    assert {key: command[0] for key, command in found.items()} == {**BINDINGS, "[": "copy-mode", "PPage": "copy-mode"}
    assert not [line for line in tmux(room, "list-keys") if line.split()[2] == "root"]


@pytest.mark.parametrize("title", ["demo", "a-b_9"])
def test_the_title_is_shown(room: Room, title: str) -> None:
    room.start("sleep", "60", title=title)
    assert tmux(room, "show-options", "-gv", "status-left") == [f"[{title}] "]


def tmux(room: Room, *words: str) -> list[str]:
    argv = ["tmux", "-S", instance.socket(str(room.folder)), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def test_tmuxs_own_words_when_it_refuses(room: Room) -> None:
    room.start("sleep", "60")
    with pytest.raises(SandboxError, match="tmux did not start: duplicate session"):
        Room.start(room, "sleep", "60")


# What a command reads while it starts.

READS = """\
import os, sys, time
with open(sys.argv[1] + ".new", "wb") as file:
    for number in map(int, sys.argv[2:]):
        with open(number, "rb") as source:
            file.write(source.read() + b"\\0")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(60)
"""


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param({3: b"one"}, id="one"),
        pytest.param({3: b"one", 6: b"two", 9: b""}, id="several"),
        pytest.param({3: b"x" * 300_000, 7: b"y" * 300_000}, id="more-than-a-pipe-holds"),
    ],
)
def test_contents_arrive_and_end(room: Room, contents: dict[int, bytes]) -> None:
    out = room.folder / "out"
    room.start(sys.executable, "-c", READS, str(out), *map(str, contents), contents=contents)
    assert procs.until(out.exists, PATIENCE)
    assert out.read_bytes().split(b"\0")[:-1] == list(contents.values())
    assert os.listdir(instance.launch_folder(str(room.folder))) == []


def test_a_command_that_dies_does_not_hold_its_feeder(room: Room) -> None:
    room.start("/nowhere/program", contents={3: b"x" * 300_000})
    assert os.listdir(instance.launch_folder(str(room.folder))) == []


def test_a_gate_holds_until_it_is_opened_and_outputs_are_files(room: Room) -> None:
    command = Command(
        ("sh", "-c", "echo waits >&4; dd bs=1 count=1 <&5 2>/dev/null; echo goes >&4; sleep 60"),
        (),
        {4: "status"},
        {5: "gate"},
    )
    status = Path(instance.launch_folder(str(room.folder)), "status")
    with session.Pipes(str(room.folder), command) as pipes:
        room.live = session.Opening(HOST, str(room.folder), str(room.log), "demo", command).up()
        assert procs.until(lambda: status.exists() and status.read_text() == "waits\n", PATIENCE)
        assert not room.live.pane.wait(0.1)
        assert status.read_text() == "waits\n"
        pipes.release()
        assert procs.until(lambda: status.read_text() == "waits\ngoes\n", PATIENCE)
    assert os.listdir(instance.launch_folder(str(room.folder))) == ["status"]


# Words of any length.


@pytest.mark.parametrize("size", [10_000, 100_000])
def test_long_text_is_typed(room: Room, size: int) -> None:
    out = room.folder / "out"
    script = 'stty raw -echo; printf ready; head -c "$1" >"$0.new"; mv "$0.new" "$0"; sleep 60'
    room.start("sh", "-c", script, str(out), str(size))
    assert room.shows("ready")
    # No two pieces of it look alike, and semicolons are everywhere.
    text = "".join(f"{number};" for number in range(size))[:size]
    session.send_text(HOST, str(room.folder), text)
    assert procs.until(out.exists, PATIENCE)
    assert out.read_text() == text


def test_the_longest_arguments_of_a_spec_arrive(room: Room) -> None:
    """Beside those that a backend and the notice add."""
    out = room.folder / "out"
    words = ["x" * 12_200, "y" * 2_000]
    room.python(NOTES, str(out), *words)
    assert noted(out) == words
