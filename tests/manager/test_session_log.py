"""Reading a session's log, with real files: whatever stands there, lines come once and in order, or are left out."""

from __future__ import annotations

import os
import random
import threading
import time
import unicodedata
from pathlib import Path

import pytest

from claude_sandbox.registry import Record
from manager_app import session_log
from manager_app.session_log import PIECE, Part


class Log:
    """A sandbox's log, written as the session's own script writes it."""

    def __init__(self, folder: Path) -> None:
        self.record = Record("box", str(folder))
        self.path = folder / "data" / "session.log"
        self.older = folder / "data" / "session.log.1"
        self.path.parent.mkdir()

    def write(self, text: str | bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    def rotate(self) -> None:
        os.replace(self.path, self.older)

    def read(self, since: str | None = None, tail: int = 100) -> Part:
        return session_log.read(self.record, tail, since)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def followed(log: Log, since: str | None, tail: int = PIECE) -> tuple[list[str], str]:
    """All lines from a position on, in as many answers as it takes."""
    lines: list[str] = []
    for _attempt in range(1000):
        part = log.read(since, tail)
        assert session_log.is_position(part.next), part.next
        lines += part.lines
        if part.next == since:
            return lines, part.next
        since = part.next
    raise AssertionError("it has no end")


def test_the_last_lines_then_what_comes(log: Log) -> None:
    log.write("one\ntwo\nthree\n")
    first = log.read(tail=2)
    assert first.lines == ["two", "three"]
    assert log.read(first.next) == Part([], first.next)
    log.write("four\n")
    assert log.read(first.next).lines == ["four"]
    assert log.read(tail=0).lines == []


def test_a_line_waits_for_its_end(log: Log) -> None:
    log.write("one\ntw")
    first = log.read()
    assert first.lines == ["one"]
    assert log.read(first.next) == Part([], first.next)
    log.write("o\n")
    assert log.read(first.next).lines == ["two"]


def test_only_an_unfinished_line(log: Log) -> None:
    log.write("never finished")
    first = log.read()
    assert first.lines == []
    log.write("\n")
    assert log.read(first.next).lines == ["never finished"]


def test_no_log_yet(log: Log) -> None:
    first = log.read()
    assert first.lines == []
    assert session_log.is_position(first.next)
    log.write("one\n")
    assert log.read(first.next).lines == ["one"]


def test_rotated_between_two_looks(log: Log) -> None:
    log.write("one\n")
    first = log.read()
    log.write("two\n")
    log.rotate()
    log.write("three\n")
    assert followed(log, first.next)[0] == ["two", "three"]


def test_rotated_and_nothing_written_since(log: Log) -> None:
    log.write("one\n")
    first = log.read()
    log.write("two\n")
    log.rotate()
    # The moment between the two steps of whoever writes.
    assert log.read(first.next) == Part([], first.next)
    log.write("")
    assert followed(log, first.next)[0] == ["two"]


@pytest.mark.parametrize("later", ["", "e", "ee"])
def test_a_line_that_begins_in_the_older_file_and_is_not_finished(log: Log, later: str) -> None:
    log.write("one\n")
    first = log.read()
    log.write("thr")
    log.rotate()
    log.write(later)
    for since in (first.next, None):
        lines, waiting = followed(log, since)
        assert lines == ([] if since else ["one"])
        with open(log.path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.write(b"x\n")
        assert followed(log, waiting)[0] == [f"thr{later}x"]
        os.truncate(log.path, size)


def test_the_first_line_of_the_older_file(log: Log) -> None:
    log.write("one\ntwo\n")
    log.rotate()
    log.write("three\n")
    assert log.read().lines == ["one", "two", "three"]


def test_more_in_the_older_file_than_one_answer_holds(log: Log) -> None:
    log.write("begin\n")
    first = log.read()
    lines = [f"{number:07d}" + "x" * 93 for number in range(3 * PIECE // 101)]
    log.write("".join(f"{line}\n" for line in lines))
    log.rotate()
    log.write("end\n")
    assert followed(log, first.next)[0] == [*lines, "end"]


def test_rotated_twice_is_read_from_the_end(log: Log) -> None:
    log.write("one\n")
    first = log.read()
    keeper = open(log.path, "rb")  # noqa: SIM115 - as long as it is open, nobody gets its inode number
    with keeper:
        for text in ("two\n", "three\n", "four\n"):
            log.rotate()
            log.write(text)
        assert log.read(first.next).lines == ["three", "four"]


def test_the_file_was_cut(log: Log) -> None:
    log.write("one\ntwo\n")
    first = log.read()
    os.truncate(log.path, 4)
    assert log.read(first.next).lines == ["one"]


def test_the_file_is_gone(log: Log) -> None:
    log.write("one\n")
    first = log.read()
    log.path.unlink()
    assert log.read(first.next) == Part([], first.next)
    assert log.read().lines == []


@pytest.mark.parametrize("older", [False, True])
def test_a_link_is_not_followed(log: Log, tmp_path: Path, older: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    if older:
        log.write("mine\n")
    (log.older if older else log.path).symlink_to(secret)
    assert log.read().lines == (["mine"] if older else [])
    number = secret.stat().st_ino
    assert "secret" not in log.read(f"{number:x}.0").lines


@pytest.mark.parametrize("older", [False, True])
def test_a_pipe_keeps_nobody_waiting(log: Log, older: bool) -> None:
    if older:
        log.write("mine\n")
    path = log.older if older else log.path
    os.mkfifo(path)
    begun = time.monotonic()
    assert log.read().lines == (["mine"] if older else [])
    assert log.read(f"{path.stat().st_ino:x}.0").lines == (["mine"] if older else [])
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("older", [False, True])
def test_a_sparse_terabyte(log: Log, older: bool) -> None:
    log.write("begin\n")
    first = log.read()
    os.truncate(log.path, 1 << 40)
    log.write("\nend\n")
    if older:
        log.rotate()
        log.write("new\n")
    begun = time.monotonic()
    assert log.read().lines[-1 - older :] == (["end", "new"] if older else ["end"])
    part = log.read(first.next)
    assert sum(map(len, part.lines)) <= PIECE
    assert session_log.is_position(part.next)
    assert time.monotonic() - begun < 5


def test_garbage(log: Log) -> None:
    noise = random.Random(1)  # noqa: S311 - made up, the same each time
    for _attempt in range(30):
        log.write(noise.randbytes(70_000))
        lines, _next = followed(log, None)
        characters = set("".join(lines))
        assert {each for each in characters if unicodedata.category(each) in ("Cc", "Cs")} <= {"\t"}


def test_a_line_that_is_too_long_is_cut(log: Log) -> None:
    log.write("one\n")
    first = log.read()
    log.write("x" * (3 * PIECE) + "\nlast\n")
    lines, _next = followed(log, first.next)
    assert lines[-1] == "last"
    assert 0 < max(map(len, lines)) <= 64 << 10
    assert log.read().lines[-1] == "last"


def test_one_line_without_an_end_is_shown_in_part(log: Log) -> None:
    log.write("x" * (PIECE + 5))
    part = log.read()
    assert len(part.lines) == 1
    assert set(part.lines[0]) == {"x"}
    log.write("\nafter\n")
    assert followed(log, part.next)[0][-1] == "after"


@pytest.mark.parametrize("since", ["", ".", "0.0", "zz.1", "-1.-1", "f" * 99 + ".0", "0." + "9" * 15, "1.1\n", "\0"])
def test_a_position_that_is_none(log: Log, since: str) -> None:
    log.write("one\n")
    assert log.read(since).lines == ["one"]


def test_while_it_is_written_and_rotated(log: Log) -> None:
    count = 20_000
    stop = threading.Event()

    def write() -> None:
        """In pieces, and rotated between any two of them, but not quicker than it is read: twice would lose some."""
        size = 0
        for number in range(count):
            text = f"{number:06d}\n"
            half = number % 7
            for part in (text[:half], text[half:]):
                log.write(part)
                size += len(part)
                if size > 40_000 and seen[0] > number - 4000:
                    log.rotate()
                    size = 0
        stop.set()

    seen = [0]
    log.write("begin\n")
    since = log.read().next
    writer = threading.Thread(target=write)
    writer.start()
    lines: list[str] = []
    while True:
        last = stop.is_set()
        part = log.read(since, PIECE)
        lines += part.lines
        seen[0] = len(lines)
        if last and part.next == since:
            break
        since = part.next
    writer.join()
    assert lines == [f"{number:06d}" for number in range(count)]
