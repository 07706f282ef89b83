"""Tokens from transcripts, which a sandbox writes as it likes; the first one here was written by Claude Code."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import claude, prices, usage

FIXTURES = Path(__file__).with_name("fixtures")
PROJECT = "/srv/demo"  # where the transcript of the fixtures was written
MODEL = "claude-opus-4-8"
Content = bytes | str | dict[str, Any]


NOW = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC).timestamp()  # after all that is written here


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "time", SimpleNamespace(time=lambda: NOW))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A ~/.claude without a transcript, with the project's folder."""
    (tmp_path / "projects" / claude.encoded(PROJECT)).mkdir(parents=True)
    return tmp_path


def folder(home: Path) -> Path:
    return home / "projects" / claude.encoded(PROJECT)


def write(path: Path, *lines: Content) -> Path:
    """A transcript: records and texts are lines of their own, bytes stand as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for line in lines:
            text = json.dumps(line) if isinstance(line, dict) else line
            file.write(text if isinstance(text, bytes) else f"{text}\n".encode())
    return path


def meter(home: Path, since: float = 0.0) -> usage.Meter:
    return usage.Meter(str(home), PROJECT, since)


def measure(home: Path, since: float = 0.0) -> usage.Usage:
    return meter(home, since).refresh()


def tokens(found: usage.Usage) -> tuple[int, int, int, int]:
    """In, out, written to the cache, read from it."""
    created, read = found.cache_creation_input_tokens, found.cache_read_input_tokens
    return found.input_tokens, found.output_tokens, created, read


def answer(identity: str = "msg_1", output: Any = 1, **more: Any) -> dict[str, Any]:
    """A record of one block of an answer."""
    message = {"id": identity, "model": MODEL, "usage": {"input_tokens": 10, "output_tokens": output}, "content": []}
    record = {"type": "assistant", "cwd": PROJECT, "timestamp": "2026-11-23T10:00:00.000Z", "message": message}
    return {**record, **more}


def with_message(**more: Any) -> dict[str, Any]:
    record = answer()
    return {**record, "message": {**record["message"], **more}}


# The folder's name.


@pytest.mark.parametrize(
    "path, name",
    [
        pytest.param("/srv/demo", "-srv-demo", id="plain"),
        pytest.param("/srv/My.Project_2/a b", "-srv-My-Project-2-a-b", id="case-kept-rest-dashed"),
        pytest.param("/a--b//c", "-a--b--c", id="nothing-collapsed"),
        pytest.param("/ü", "--", id="one-unit"),
        pytest.param("/😀x", "---x", id="two-units"),
        pytest.param("/٣²", "---", id="digits-of-others"),
        pytest.param("/" + "a" * 199, "-" + "a" * 199, id="longest-without-hash"),
    ],
)
def test_encoded(path: str, name: str) -> None:
    assert claude.encoded(path) == name


def hash_of_java(text: str) -> int:
    """The rule in other words: the sum of each unit times a power of 31, as a signed 32-bit number."""
    raw = text.encode("utf-16-be")
    units = [raw[at] << 8 | raw[at + 1] for at in range(0, len(raw), 2)]
    total: int = sum(unit * 31**power for power, unit in enumerate(reversed(units))) % 2**32
    return total - 2**32 if total >= 2**31 else total


def dashed(path: str) -> str:
    """The rule for characters: those outside the first plane are two units."""
    return "".join(char if char.isascii() and char.isalnum() else "-" * (1 + (char > "\uffff")) for char in path)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/" + "a" * 200, id="one-too-long"),
        pytest.param("/srv/" + "long-name/" * 40, id="long"),
        pytest.param("/" + "😀" * 100, id="surrogate-pairs-count-twice"),
        pytest.param("/" + "😀é" * 90, id="mixed"),
        pytest.param("/" + "b" * 1000, id="very-long"),
    ],
)
def test_encoded_is_cut_and_hashed(path: str) -> None:
    name = claude.encoded(path)
    assert name[:200] == dashed(path)[:200]
    assert name[200] == "-"
    assert int(name[201:], 36) == abs(hash_of_java(path))
    assert name[201:] == name[201:].lower()


def test_both_signs_of_the_hash_are_met() -> None:
    assert {hash_of_java("/" + "a" * n) > 0 for n in range(200, 220)} == {True, False}


# The transcript of Claude Code itself.


@pytest.fixture
def real(home: Path) -> Path:
    shutil.copy(FIXTURES / "transcript.jsonl", folder(home) / "f8909ad1.jsonl")
    return home


@pytest.fixture
def real_with_subagent(real: Path) -> Path:
    shutil.copytree(FIXTURES / "transcript", folder(real) / "f8909ad1")
    return real


def test_the_real_transcript(real: Path) -> None:
    found = measure(real)
    assert tokens(found) == (7552, 140, 35323, 35323)
    assert (found.messages, found.tool_uses) == (4, 3)
    assert found.by_model == {
        MODEL: {
            "input_tokens": 7552,
            "output_tokens": 140,
            "cache_creation_input_tokens": 35323,
            "cache_read_input_tokens": 35323,
            "messages": 4,
        }
    }
    assert found.complete


def test_its_subagent_counts_too(real_with_subagent: Path) -> None:
    found = measure(real_with_subagent)
    assert tokens(found) == (7552 + 3050, 140 + 28, 35323 + 10171, 35323 + 10171)
    assert (found.messages, found.tool_uses) == (6, 4)


def test_a_session_that_was_forked_counts_its_old_messages_once(real_with_subagent: Path) -> None:
    before = measure(real_with_subagent)
    shutil.copy(FIXTURES / "transcript.jsonl", folder(real_with_subagent) / "another.jsonl")
    assert measure(real_with_subagent) == before


def test_since(real: Path) -> None:
    """The first message and its three records came before 10:56:45.1."""
    when = datetime.datetime(2026, 11, 23, 10, 56, 45, 100_000, datetime.UTC).timestamp()
    found = measure(real, when)
    assert (found.messages, found.output_tokens) == (3, 140 - 48)
    assert measure(real, when + 3600) == usage.Usage()


def test_every_beginning_of_a_transcript_can_be_read(real: Path) -> None:
    """It is read while it is written: what is not yet a line does not count, and is no fault."""
    content = (FIXTURES / "transcript.jsonl").read_bytes()
    counts = []
    for end in range(0, len(content), 97):
        (folder(real) / "f8909ad1.jsonl").write_bytes(content[:end])
        found = measure(real)
        assert found.complete
        counts.append(found.output_tokens)
    assert counts == sorted(counts)
    assert set(counts) == {0, 48, 56, 82, 140}


# Transcripts made up.


def test_without_a_transcript(tmp_path: Path) -> None:
    assert measure(tmp_path) == usage.Usage()
    assert not usage.has_conversation(str(tmp_path), PROJECT)


@pytest.mark.parametrize(
    "record, counts",
    [
        pytest.param(answer(), True, id="plain"),
        pytest.param(answer(cwd=f"{PROJECT}/below"), True, id="below-the-project"),
        pytest.param(answer(cwd=f"{PROJECT}2"), False, id="neighbour"),
        pytest.param(answer(cwd="/srv-demo"), False, id="other-directory-of-the-same-folder"),
        pytest.param(answer(cwd="/srv"), False, id="above"),
        pytest.param(answer(cwd=None), False, id="no-directory"),
        pytest.param(answer(cwd=[PROJECT]), False, id="directory-is-a-list"),
        pytest.param(answer(type="user"), False, id="not-an-answer"),
        pytest.param(answer(type=["assistant"]), False, id="type-is-a-list"),
        pytest.param(answer(message="text"), False, id="message-is-text"),
        pytest.param(answer(message=None), False, id="no-message"),
        pytest.param(answer(timestamp=None), False, id="no-time"),
        pytest.param(answer(timestamp="yesterday"), False, id="time-is-no-time"),
        pytest.param(answer(timestamp=0), False, id="time-is-a-number"),
        pytest.param(answer(timestamp="0001-01-01T00:00:00+23:00"), False, id="time-before-all"),
        pytest.param(answer(timestamp="1969-12-31T23:59:59Z"), False, id="before-since"),
        pytest.param(answer(timestamp="1970-01-01T00:00:00Z"), True, id="since"),
        pytest.param(with_message(model="<synthetic>"), False, id="an-error-of-the-api"),
        pytest.param(with_message(id=None), False, id="no-identity"),
        pytest.param(with_message(id=["msg_1"]), False, id="identity-is-a-list"),
        pytest.param(with_message(usage=None), False, id="no-usage"),
        pytest.param(with_message(usage=[1]), False, id="usage-is-a-list"),
        pytest.param(with_message(content="text"), True, id="content-is-text"),
        pytest.param(with_message(content=[None, {"type": "tool_use", "id": 5}]), True, id="blocks-are-odd"),
    ],
)
def test_which_records_count(home: Path, record: dict[str, Any], counts: bool) -> None:
    write(folder(home) / "a.jsonl", record)
    found = measure(home)
    assert found.messages == counts
    assert found.output_tokens == counts
    assert found.tool_uses == 0
    assert found.complete


@pytest.mark.parametrize(
    "value", [-1, True, "5", 5.5, None, [5], 1 << 53, 10**30], ids=lambda value: f"{type(value).__name__}-{value}"[:20]
)
def test_what_is_no_number_of_tokens_counts_as_none(home: Path, value: object) -> None:
    write(folder(home) / "a.jsonl", answer(output=value))
    assert tokens(measure(home)) == (10, 0, 0, 0)


@pytest.mark.parametrize(
    "records, output",
    [
        pytest.param([answer(), answer(), answer()], 1, id="one-after-the-other"),
        pytest.param([answer("a"), answer("b"), answer("a")], 2, id="another-between-them"),
        pytest.param([answer(output=3), answer(output=7)], 7, id="the-last-word"),
        pytest.param([answer(output=7), answer(output=3)], 7, id="the-most-complete-word"),
    ],
)
def test_each_message_once(home: Path, records: list[dict[str, Any]], output: int) -> None:
    write(folder(home) / "a.jsonl", *records)
    assert measure(home).output_tokens == output
    # Over files, too.
    for number, record in enumerate(records):
        write(folder(home) / f"a/subagents/agent-{number}.jsonl", record)
    assert measure(home).output_tokens == output


def test_models_are_told_apart(home: Path) -> None:
    other = with_message(id="msg_2", model="small")
    write(folder(home) / "a.jsonl", answer(), other, with_message(id="msg_3", model=None))
    found = measure(home)
    assert {model: counts["output_tokens"] for model, counts in found.by_model.items()} == {
        MODEL: 1,
        "small": 1,
        "unknown": 1,
    }
    assert found.messages == 3


def test_tools_are_counted_once_each(home: Path) -> None:
    blocks = [{"type": "tool_use", "id": "t1"}, {"type": "tool_use", "id": "t2"}, {"type": "text", "id": "t3"}]
    write(folder(home) / "a.jsonl", with_message(content=blocks), with_message(content=blocks[:1]))
    assert measure(home).tool_uses == 2


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("not json", id="text"),
        pytest.param(b"\xff\xfe\0\n", id="bytes"),
        pytest.param("[" * 100_000, id="too-deep"),
        pytest.param("9" * 10_000, id="too-large-a-number"),
        pytest.param("", id="empty-line"),
    ],
)
def test_garbage_is_passed_over_and_told(home: Path, line: Content) -> None:
    write(folder(home) / "a.jsonl", answer("a"), line, answer("b"))
    found = measure(home)
    assert found.messages == 2
    assert not found.complete


@pytest.mark.parametrize("line", ["5", '"text"', "null", "[]", "[{}]", "{}"])
def test_json_that_is_no_record_is_passed_over(home: Path, line: str) -> None:
    write(folder(home) / "a.jsonl", line, answer())
    assert measure(home).messages == 1


def test_a_huge_line_is_passed_over(home: Path) -> None:
    """A file can claim a size that no memory has: it is read in pieces."""
    path = write(folder(home) / "a.jsonl", answer("a"))
    with path.open("r+b") as file:
        file.seek(65 << 20)
        file.write(b"\n" + json.dumps(answer("b")).encode() + b"\n")
    assert measure(home).messages == 2


def test_the_end_of_a_huge_line_is_no_line(home: Path) -> None:
    """Whatever its length: no piece of it is taken for a record."""
    for size in ((4 << 20) - 1, 4 << 20, (4 << 20) + 1, 8 << 20, 64 << 20):
        path = folder(home) / "a.jsonl"
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(size)
            file.write(json.dumps(answer()).encode() + b"\n")
        assert measure(home).messages == 0


def test_only_so_much_is_read_in_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the files claim to be, and however many they are."""
    # The real limit takes seconds to read.
    monkeypatch.setattr(usage, "_TOTAL_LIMIT", 10_000)
    write(folder(home) / "a.jsonl", answer("a"))
    path = write(folder(home) / "b.jsonl", answer("b"), *["{}" for _ in range(5000)])
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    write(folder(home) / "c.jsonl", answer("c"))
    found = measure(home)
    assert found.messages == 2
    assert not found.complete


def outside(path: Path) -> Path:
    """A transcript that is none of the project's."""
    return write(path.parents[2] / "outside.jsonl", answer("outside"))


TRAPS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to(outside(path)),
    "dangling-link": lambda path: path.symlink_to("nowhere"),
    "link-to-a-device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_not_read(home: Path, trap: str) -> None:
    TRAPS[trap](folder(home) / "trap.jsonl")
    write(folder(home) / "a.jsonl", answer())
    found = measure(home)
    assert found.messages == 1
    assert not found.complete
    assert not usage.has_conversation(str(home), PROJECT)


def test_a_folder_with_the_name_of_a_transcript_is_none(home: Path) -> None:
    (folder(home) / "folder.jsonl").mkdir()
    write(folder(home) / "a.jsonl", answer())
    assert measure(home) == dataclasses.replace(measure(home), messages=1, complete=True)


@pytest.mark.parametrize(
    "name, read",
    [
        pytest.param("a.jsonl", True, id="session"),
        pytest.param("a/subagents/agent-1.jsonl", True, id="subagent"),
        pytest.param("a/subagents/agent-1/deeper/b.jsonl", False, id="deeper"),
        pytest.param("a.json", False, id="other-ending"),
        pytest.param("a.jsonl.bak", False, id="backup"),
    ],
)
def test_where_transcripts_are(home: Path, name: str, read: bool) -> None:
    path = write(folder(home) / name, answer())
    found, whole = usage.transcripts(str(home), PROJECT)
    assert [each.path for each in found] == ([str(path)] if read else [])
    assert whole


@pytest.mark.parametrize(
    "place",
    ["projects/-srv-demo/a", "projects/-srv-demo"],
    ids=["below", "project"],
)
def test_a_link_to_a_folder_is_not_followed(tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "b.jsonl", answer())
    link = tmp_path / "home" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    assert measure(tmp_path / "home").messages == 0


# Read again, when more was written.


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(f"{json.dumps(each)}\n".encode() for each in records)


def append(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(content)


def caught_up(reading: usage.Meter, limit: int | None = None) -> usage.Usage:
    while (found := reading.refresh(limit)).pending:
        pass
    return found


def bytes_read(work: Callable[[], object]) -> int:
    """What this process reads from files meanwhile."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    begin = so_far()
    of_itself = so_far() - begin
    work()
    return so_far() - begin - 2 * of_itself


def odd_record(chance: random.Random) -> bytes:
    """Mostly an answer: of few messages, so that most come again, in any order, with more or fewer tokens."""
    kind = chance.random()
    if kind < 0.05:
        return chance.choice([b"\n", b"not json\n", b"[]\n", b"{}\n"])
    if kind < 0.1:
        return b"x" * chance.randrange(1900, 7000) + b"\n"
    identity, model = f"m{chance.randrange(30)}", chance.choice([MODEL, "small", "<synthetic>", None])
    content = [{"type": "tool_use", "id": f"t{chance.randrange(20)}"}]
    counts = {"input_tokens": chance.randrange(9), "output_tokens": chance.randrange(9)}
    record = with_message(id=identity, model=model, content=content, usage=counts)
    record["timestamp"] = f"2026-11-{chance.randrange(1, 29):02}T{chance.randrange(24):02}:30:00Z"
    return lines(record)


@pytest.mark.parametrize("seed", range(25))
def test_however_it_grows_the_sums_are_those_of_reading_it_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Cut at any byte, in any order of the files, and with any limit."""
    monkeypatch.setattr(usage, "_LINE_LIMIT", 2000)
    chance = random.Random(seed)  # noqa: S311 - no secret
    since = datetime.datetime(2026, 11, 5, tzinfo=datetime.UTC).timestamp()
    names = ("a.jsonl", "b.jsonl", "a/subagents/agent-1.jsonl")
    unwritten = {name: b"".join(odd_record(chance) for _ in range(chance.randrange(40))) for name in names}
    reading = meter(home, since)
    while any(unwritten.values()):
        name = chance.choice([name for name in names if unwritten[name]])
        cut = chance.randrange(1, 3000)
        append(folder(home) / name, unwritten[name][:cut])
        unwritten[name] = unwritten[name][cut:]
        if chance.random() < 0.7:
            reading.refresh(chance.choice([None, 0, 1, 100, 2500]))
    assert caught_up(reading, chance.choice([None, 1, 700])) == measure(home, since)


def test_a_refresh_reads_what_is_new(home: Path) -> None:
    path = folder(home) / "a.jsonl"
    append(path, lines(*[answer(f"m{number}") for number in range(5000)]))
    write(folder(home) / "b.jsonl", answer("b"))
    reading, line = meter(home), lines(answer("new", output=5))
    assert bytes_read(reading.refresh) > 1_000_000
    assert bytes_read(reading.refresh) == 0
    append(path, line)
    assert bytes_read(reading.refresh) <= len(line) + 256
    assert reading.refresh().messages == 5002
    assert reading.refresh() == measure(home)


def test_what_was_returned_does_not_change(home: Path) -> None:
    path = write(folder(home) / "a.jsonl", answer("a"))
    reading = meter(home)
    first = reading.refresh()
    before = dataclasses.asdict(first)
    append(path, lines(answer("b")))
    reading.refresh()
    assert dataclasses.asdict(first) == before


def test_an_unfinished_line_waits(home: Path) -> None:
    line = lines(answer())
    path = folder(home) / "a.jsonl"
    append(path, line[:50])
    reading = meter(home)
    for _ in range(2):
        found = reading.refresh()
        assert (found.messages, found.complete, found.pending) == (0, True, 0)
    assert bytes_read(reading.refresh) == 0
    append(path, line[50:-1])
    assert reading.refresh().messages == 0
    append(path, b"\n")
    assert reading.refresh() == measure(home)
    assert reading.refresh().messages == 1


def test_a_line_that_is_too_long_is_read_once(home: Path) -> None:
    path = folder(home) / "a.jsonl"
    append(path, b"x" * (9 << 20))
    reading = meter(home)
    reading.refresh()
    for _ in range(3):
        append(path, b"x")
        assert bytes_read(reading.refresh) <= 1 + 256
    append(path, b"\n" + lines(answer()))
    assert reading.refresh().messages == 1
    assert measure(home).messages == 1


def test_many_bytes_at_once_can_be_left_for_later(home: Path) -> None:
    line = lines(answer())
    for name in ("a.jsonl", "b.jsonl"):
        append(folder(home) / name, b"".join(lines(answer(f"{name}{number}")) for number in range(1000)))
    whole = sum(path.stat().st_size for path in folder(home).iterdir())
    reading, left = meter(home), [whole]
    while left[-1]:
        # What Python reads ahead, it reads again.
        assert bytes_read(lambda: left.append(reading.refresh(20_000).pending)) <= 20_000 + len(line) + 8192 + 256
        assert left[-2] - left[-1] <= 20_000 + 2 * len(line)
    assert len(left) > 10
    assert reading.refresh() == measure(home)
    assert reading.refresh().messages == 2000


def test_a_limit_of_nothing_reads_nothing(home: Path) -> None:
    path = write(folder(home) / "a.jsonl", answer())
    found = meter(home).refresh(0)
    assert (found.messages, found.pending, found.complete) == (0, path.stat().st_size, True)


def rewritten(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def renewed(path: Path, content: bytes) -> None:
    """The freed inode is mostly the new file's."""
    path.unlink()
    path.write_bytes(content)


def exchanged(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_bytes(content)
    draft.rename(path)


@pytest.mark.parametrize("change", [rewritten, renewed, exchanged])
@pytest.mark.parametrize("others", [1, 3, 50], ids=["shorter", "as-long", "longer"])
def test_a_file_that_is_another_is_read_from_its_start(
    home: Path, change: Callable[[Path, bytes], None], others: int
) -> None:
    path = write(folder(home) / "a.jsonl", *[answer(f"old-{number}") for number in range(3)])
    reading = meter(home)
    reading.refresh()
    os.utime(path, (1, 1))  # a clock is coarse: the change is to be seen
    change(path, lines(answer("old-1"), *[answer(f"new{number}") for number in range(others)]))
    found = reading.refresh()
    assert (found.messages, found.output_tokens, found.complete) == (3 + others, 3 + others, True)


def test_a_file_that_was_cut_counts_nothing_twice(home: Path) -> None:
    path = write(folder(home) / "a.jsonl", *[answer(f"m{number}") for number in range(5)])
    reading = meter(home)
    reading.refresh()
    os.truncate(path, 2 * len(lines(answer("m0"))))
    assert reading.refresh().messages == 5
    append(path, lines(answer("m7")))
    assert reading.refresh().messages == 6


def test_a_file_that_is_renamed_or_linked_is_read_once(home: Path) -> None:
    path = write(folder(home) / "a.jsonl", *[answer(f"m{number}") for number in range(50)])
    os.link(path, folder(home) / "c.jsonl")
    reading = meter(home)
    assert bytes_read(reading.refresh) == path.stat().st_size
    path.rename(folder(home) / "b.jsonl")
    assert bytes_read(reading.refresh) <= 256
    assert reading.refresh().messages == 50


def test_what_was_counted_stays_counted(home: Path) -> None:
    path = write(folder(home) / "a.jsonl", answer())
    reading = meter(home)
    before = reading.refresh()
    path.unlink()
    assert reading.refresh() == before


def test_more_of_a_message_changes_the_sums_by_the_difference(home: Path) -> None:
    reading = meter(home)
    write(folder(home) / "a.jsonl", answer(output=3), answer("other", output=100))
    assert reading.refresh().output_tokens == 103
    grown = with_message(usage={"input_tokens": 10, "output_tokens": 8}, model="small")
    write(folder(home) / "b.jsonl", {**grown, "timestamp": "2026-11-23T12:00:00Z"}, answer(output=2))
    found = reading.refresh()
    assert (found.output_tokens, found.messages) == (108, 2)
    assert {model: (each["output_tokens"], each["messages"]) for model, each in found.by_model.items()} == {
        MODEL: (100, 1),
        "small": (8, 1),
    }
    assert [each["output_tokens"] for each in found.history] == [100, 8]


def test_a_trap_that_is_gone_is_forgotten(home: Path) -> None:
    os.mkfifo(folder(home) / "trap.jsonl")
    os.utime(folder(home) / "trap.jsonl", (0, 0))
    reading = meter(home)
    assert not reading.refresh().complete
    (folder(home) / "trap.jsonl").unlink()
    assert reading.refresh().complete


def test_garbage_is_remembered(home: Path) -> None:
    write(folder(home) / "a.jsonl", "garbage")
    reading = meter(home)
    assert not reading.refresh().complete
    assert not reading.refresh().complete


def test_a_folder_that_became_a_link_is_not_read(home: Path) -> None:
    """Between the look at the names and the opening of a file, too."""
    path = write(folder(home) / "a/subagents/agent-1.jsonl", answer())
    found = usage.transcripts(str(home), PROJECT)
    path.parent.rename(home / "elsewhere")
    path.parent.symlink_to(home / "elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "transcripts", lambda *_: found)
        seen = measure(home)
    assert (seen.messages, seen.complete) == (0, False)


# Bounds.


def test_only_so_much_is_read_in_all_the_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a file is written anew; and what will never be read is not waited for."""
    monkeypatch.setattr(usage, "_TOTAL_LIMIT", 10_000)
    reading, path = meter(home), folder(home) / "a.jsonl"
    for number in range(20):
        path.write_bytes(lines(*[answer(f"{number}-{each}") for each in range(5)]))
        os.utime(path, (number, number))
        assert reading.refresh(500_000).pending == 0
    found = reading.refresh()
    assert not found.complete
    assert 10 < found.messages < 60
    assert bytes_read(reading.refresh) == 0


def test_what_is_written_while_it_is_read_is_for_the_next_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that writes as fast as it is read holds nobody up."""
    path = write(folder(home) / "a.jsonl", answer("m0"))
    read: list[Any] = []

    def loads(line: bytes) -> Any:
        read.append(json.loads(line))
        assert len(read) < 10
        append(path, lines(answer(f"m{len(read)}")))
        return read[-1]

    monkeypatch.setattr(usage, "json", SimpleNamespace(loads=loads))
    reading = meter(home)
    assert [reading.refresh().messages for _ in range(3)] == [1, 2, 3]


def test_what_waits_is_never_more_than_what_will_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_TOTAL_LIMIT", 10_000)
    write(folder(home) / "a.jsonl", *[answer(f"m{number}") for number in range(200)])
    assert meter(home).refresh(1000).pending < 9_100
    assert not caught_up(meter(home), 1000).complete


def test_only_so_many_names_are_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_ENTRY_LIMIT", 10)
    for number in range(9):
        write(folder(home) / f"{number}.jsonl", answer(f"m{number}"))
    assert measure(home).complete
    (folder(home) / "folder").mkdir()
    assert measure(home).complete
    write(folder(home) / "folder/more.jsonl", answer("more"))
    found = measure(home)
    assert (found.messages, found.complete) == (9, False)


def test_only_so_many_messages_and_tools_are_remembered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_ID_LIMIT", 2)
    tools = [{"type": "tool_use", "id": f"t{number}"} for number in range(3)]
    path = write(folder(home) / "a.jsonl", answer("a"), answer("b", output=1))
    reading = meter(home)
    assert reading.refresh().complete
    append(path, lines(answer("c"), answer("b", output=5)))
    found = reading.refresh()
    assert (found.messages, found.output_tokens, found.complete) == (2, 6, False)
    write(folder(home) / "a.jsonl", with_message(content=tools))
    found = measure(home)
    assert (found.tool_uses, found.complete) == (2, False)


def test_an_identity_of_a_megabyte_is_not_remembered(home: Path) -> None:
    write(
        folder(home) / "a.jsonl", answer("x" * (1 << 20)), with_message(content=[{"type": "tool_use", "id": "x" * 201}])
    )
    found = measure(home)
    assert (found.messages, found.tool_uses, found.complete) == (1, 0, False)


def test_only_so_many_models_are_told_apart(home: Path) -> None:
    write(folder(home) / "a.jsonl", *[with_message(id=f"m{number}", model=f"model-{number}") for number in range(300)])
    found = measure(home)
    assert len(found.by_model) == 101
    assert found.by_model["unknown"]["messages"] == 200
    assert found.messages == 300


# By time.


def test_history(home: Path) -> None:
    times = ["10:00:00.000Z", "10:09:59.999Z", "10:10:00Z", "13:45:00+01:00"]
    records = [answer(str(number), timestamp=f"2026-11-23T{each}") for number, each in enumerate(times)]
    write(folder(home) / "a.jsonl", *reversed(records))
    ten = int(datetime.datetime(2026, 11, 23, 10, tzinfo=datetime.UTC).timestamp())
    both = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    assert measure(home).history == [
        {"at": ten, "input_tokens": 20, "output_tokens": 2, "messages": 2, **both},
        {"at": ten + 600, "input_tokens": 10, "output_tokens": 1, "messages": 1, **both},
        {"at": ten + 9600, "input_tokens": 10, "output_tokens": 1, "messages": 1, **both},
    ]


def test_history_of_a_message_in_many_records_is_when_it_began(home: Path) -> None:
    early, late = answer(timestamp="2026-11-23T10:05:00Z"), answer(timestamp="2026-11-23T10:15:00Z")
    write(folder(home) / "a.jsonl", early, late)
    assert [each["messages"] for each in measure(home).history] == [1]
    begin = measure(home).history
    write(folder(home) / "a.jsonl", late, early)
    assert measure(home).history == begin


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_history_is_of_the_latest(home: Path, is_shuffled: bool) -> None:
    """However many spans there are: those before are in the sums alone."""
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    times = [begin + datetime.timedelta(seconds=600 * number) for number in range(5000)]
    records = [answer(str(number), timestamp=when.isoformat()) for number, when in enumerate(times)]
    if is_shuffled:
        random.Random(5).shuffle(records)  # noqa: S311 - no secret
    write(folder(home) / "a.jsonl", *records)
    found = measure(home)
    assert [each["at"] for each in found.history] == [int(when.timestamp()) for when in times[-1008:]]
    assert {each["messages"] for each in found.history} == {1}
    assert found.messages == 5000


def test_history_that_was_forgotten_is_not_taken_away_from(home: Path) -> None:
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    times = [(begin + datetime.timedelta(seconds=600 * number)).isoformat() for number in range(1010)]
    path = write(folder(home) / "a.jsonl", *[answer(str(at), timestamp=when) for at, when in enumerate(times)])
    reading = meter(home)
    assert len(reading.refresh().history) == 1008
    append(path, lines(*[answer(identity, 9, timestamp=times[500]) for identity in ("0", "1009")]))
    history = reading.refresh().history
    assert len(history) == 1007
    assert {each["messages"] for each in history} == {1, 3}


@pytest.mark.parametrize(
    "timestamp, counts",
    [
        pytest.param("2026-11-25T00:00:00Z", True, id="a-clock-that-is-ahead"),
        pytest.param("2026-11-25T00:00:01Z", False, id="too-far-ahead"),
        pytest.param("9999-12-31T23:59:59Z", False, id="the-end-of-time"),
        pytest.param("9999-12-31T23:59:59-23:59", False, id="behind-the-end-of-time"),
        pytest.param("1970-01-01T00:00:00Z", True, id="the-beginning"),
        pytest.param("0001-01-01T00:00:00Z", False, id="before-it"),
    ],
)
def test_a_time_that_cannot_be_is_no_record(home: Path, timestamp: str, counts: bool) -> None:
    write(folder(home) / "a.jsonl", answer("a", timestamp=timestamp))
    found = measure(home)
    assert (found.messages, len(found.history)) == (counts, counts)
    assert found.complete


def test_shown(real: Path) -> None:
    table = prices.Table("2026-01-02", {"claude-opus": prices.Price(1_000_000, 0, 0, 0)})
    shown = usage.shown(measure(real), table)
    assert shown.pop("cost") == {"usd": 7552.0, "as_of": "2026-01-02", "unpriced": []}
    assert shown == dataclasses.asdict(measure(real))
    assert json.loads(json.dumps(shown)) == shown


# Whether there is something to go on with.


def prompt(**more: Any) -> dict[str, Any]:
    return {"type": "user", "cwd": PROJECT, "isSidechain": False, "entrypoint": "cli", **more}


@pytest.mark.parametrize(
    "records, found",
    [
        pytest.param([prompt()], True, id="interface"),
        pytest.param([prompt(entrypoint="sdk-cli")], False, id="print-mode-does-not-count"),
        pytest.param([prompt(entrypoint="sdk-cli"), prompt()], True, id="both"),
        pytest.param([prompt(isSidechain=True)], False, id="subagent"),
        pytest.param([prompt(cwd=f"{PROJECT}/below")], False, id="another-directory"),
        pytest.param([prompt(type="assistant")], False, id="no-prompt"),
        pytest.param(["garbage", "[]", prompt()], True, id="after-garbage"),
        pytest.param([json.dumps(prompt()).encode()], False, id="unfinished"),
        pytest.param([], False, id="empty"),
    ],
)
def test_has_conversation(home: Path, records: list[Content], found: bool) -> None:
    write(folder(home) / "a.jsonl", *records)
    assert usage.has_conversation(str(home), PROJECT) is found


def test_the_real_transcript_is_of_print_mode(real_with_subagent: Path) -> None:
    assert not usage.has_conversation(str(real_with_subagent), PROJECT)


# What the agent says that it does.


@pytest.mark.parametrize(
    "content, activity",
    [
        pytest.param('{"status": "idle", "updatedAt": 5}', usage.Activity("idle", "5"), id="idle"),
        pytest.param('{"status": "busy"}', usage.Activity("busy", "None"), id="without-a-mark"),
        pytest.param('{"status": "waiting", "updatedAt": "now"}', usage.Activity("waiting", "now"), id="waiting"),
        pytest.param('{"updatedAt": 5}', None, id="no-status"),
        pytest.param('{"status": 5}', None, id="number"),
        pytest.param('{"status": ["idle"]}', None, id="list"),
        pytest.param('{"status": ""}', None, id="empty"),
        pytest.param('{"status": "<b>"}', None, id="markup"),
        pytest.param('{"status": "idle\\n"}', None, id="newline"),
        pytest.param(json.dumps({"status": "x" * 21}), None, id="long"),
        pytest.param('["idle"]', None, id="no-object"),
        pytest.param("{", None, id="unfinished"),
        pytest.param(json.dumps({"status": "idle", "more": "x" * 70_000}), None, id="huge"),
        pytest.param(None, None, id="no-file"),
    ],
)
def test_activity(tmp_path: Path, content: str | None, activity: usage.Activity | None) -> None:
    if content is not None:
        (tmp_path / "7.json").write_text(content)
    assert usage.activity(str(tmp_path), 7) == activity


def test_the_mark_of_an_activity_is_short_whatever_is_written(tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text(json.dumps({"status": "idle", "updatedAt": "x" * 60_000}))
    found = usage.activity(str(tmp_path), 7)
    assert found is not None
    assert len(found.mark) <= 40


@pytest.mark.parametrize("trap", TRAPS)
def test_activity_in_a_trap(home: Path, trap: str) -> None:
    TRAPS[trap](folder(home) / "7.json")
    assert usage.activity(str(folder(home)), 7) is None


@pytest.mark.parametrize("model", ["x" * 10_000, "\ud800", "a\x1b[2Jb"], ids=["long", "surrogate", "escape"])
def test_the_name_of_a_model_is_one_that_can_be_shown(home: Path, model: str) -> None:
    write(folder(home) / "a.jsonl", with_message(model=model))
    (name,) = measure(home).by_model
    assert len(name) <= 100
    assert name.isascii()
    assert name.isprintable()
