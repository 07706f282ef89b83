"""A prompt as a task: what is asked, what is read of the answer, and what has become of the project."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import task
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.commands import Completed
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.task import Report, Task

ID = "11111111-1111-4111-8111-111111111111"
ASKED = Task("Do it.", 60.0)
GOOD: dict[str, Any] = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "num_turns": 2,
    "result": "done",
    "session_id": ID,
    "total_cost_usd": 0.5,
    "modelUsage": {"m": {"inputTokens": 3, "outputTokens": 4, "costUSD": 0.5}},
    "permission_denials": [],
}


def concluded(output: object, asked: Task = ASKED, **more: Any) -> Report:
    """The report of a run that printed this."""
    printed = output if isinstance(output, bytes) else json.dumps(output).encode()
    report = Report("", "box", kept=False)
    task.conclude(report, asked, Completed(**{"code": 0, "stdout": printed, "stderr": b"", **more}))
    return report


def test_the_prompt_is_no_argument() -> None:
    asked = dataclasses.replace(
        ASKED,
        model="--sonnet",
        max_turns=3,
        max_cost_usd=0.00001,
        system_prompt="Be terse.",
        append_system_prompt="Be kind.",
        allowed_tools=["Bash(git log *)", "Read"],
        disallowed_tools=["WebFetch"],
        schema={"type": "object"},
    )
    assert task.arguments(asked, "You are here.", ID) == [
        "--print",
        "--output-format=json",
        "--permission-mode=bypassPermissions",
        "--append-system-prompt=You are here.\n\nBe kind.",
        f"--session-id={ID}",
        "--model=--sonnet",
        "--max-turns=3",
        "--max-budget-usd=0.000010",
        "--system-prompt=Be terse.",
        '--json-schema={"type": "object"}',
        "--allowedTools=Bash(git log *)",
        "--allowedTools=Read",
        "--disallowedTools=WebFetch",
    ]
    resumed = task.arguments(dataclasses.replace(ASKED, session_id=ID), "", "other")
    assert f"--resume={ID}" in resumed
    assert not any("session-id" in word for word in resumed)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": "x" * ((16 << 20) + 1)}, "prompt is longer than 16 MiB"),
        ({"timeout": 0.0}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"max_cost_usd": -1.0}, "max_cost_usd must be"),
        ({"max_turns": 0}, "max_turns must be"),
        ({"session_id": "--continue"}, "session_id '--continue' is none"),
        ({"session_id": f"{ID}\n"}, "session_id"),
        ({"schema": {"type": "wrong"}}, "schema is none of an object"),
        ({"schema": {}}, "schema is none of an object"),
        ({"system_prompt": "x" * 200_000}, "--system-prompt has a NUL"),
        ({"model": "a\0b"}, "--model has a NUL"),
        ({"permission_mode": "auto"}, "There is no permission_mode 'auto'"),
    ],
)
def test_what_cannot_be_asked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SandboxError) as refused:
        dataclasses.replace(ASKED, **wrong).check()
    assert refused.value.what.startswith(message)


def test_a_good_answer() -> None:
    report = concluded(GOOD)
    assert (report.failure, report.result, report.session_id) == (None, "done", ID)
    assert (report.cost_usd, report.num_turns) == (0.5, 2)
    assert report.usage is not None
    assert (report.usage["input_tokens"], report.usage["output_tokens"]) == (3, 4)
    assert report.usage["by_model"]["m"]["cost_usd"] == 0.5


def test_the_last_line_counts() -> None:
    forged = json.dumps({**GOOD, "result": "forged"}).encode()
    assert concluded(forged + b"\n" + json.dumps(GOOD).encode() + b"\n").result == "done"


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"\0\0",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"type": "other"}',
        b"[" * 200_000,
        b'{"type":"result","a":' * 100_000,
        b'{"type":"result","total_cost_usd":' + b"9" * 10_000 + b"}",
        b'{"type":"result","total_cost_usd":NaN}',
        b'{"type":"result","total_cost_usd":1e999}',
        b'{"half of a line' + json.dumps(GOOD).encode(),
    ],
)
def test_what_is_no_result(output: bytes) -> None:
    report = concluded(output)
    assert report.failure is not None
    assert report.result is None


@pytest.mark.parametrize(
    "odd",
    [
        {"total_cost_usd": -1},
        {"total_cost_usd": True},
        {"total_cost_usd": "much"},
        {"num_turns": 1 << 60},
        {"modelUsage": []},
        {"modelUsage": {"m": None, "n": {"inputTokens": "x", "costUSD": []}}},
        {"modelUsage": {str(number): {} for number in range(1000)}},
        {"permission_denials": {}},
        {"session_id": "../../etc"},
        {"session_id": 5},
    ],
)
def test_odd_figures_are_left_out(odd: dict[str, Any]) -> None:
    report = concluded({**GOOD, **odd})
    assert report.failure is None
    assert report.usage is not None
    assert len(report.usage["by_model"]) <= 20
    assert all(type(value) in (int, float, type(None)) for value in (report.cost_usd, report.num_turns))
    assert report.session_id in ("", ID)
    json.dumps(dataclasses.asdict(report), allow_nan=False).encode()


def test_half_characters_and_long_results() -> None:
    report = concluded(
        b'{"type":"result","subtype":"success","is_error":false,"result":"a\\ud800\\u0000\\ud83d\\ude00"}'
    )
    assert report.result == "a\N{REPLACEMENT CHARACTER}\0\N{GRINNING FACE}"
    long = concluded({**GOOD, "result": "x" * (2 << 20)})
    assert long.result is not None
    assert len(long.result) == 1 << 20
    assert long.warnings


@pytest.mark.parametrize(
    "answer, message",
    [
        (
            {"is_error": True, "result": "Not logged in · Please run /login"},
            "Please run /login. Give a",
        ),
        (
            {"is_error": True, "api_error_status": 401, "result": "no\x1b[31m"},
            "failed: no\\x1b[31m. Give a",
        ),
        ({"is_error": None}, "Claude Code failed: done."),
        ({"subtype": "error_during_execution", "errors": ["broke\nin two"]}, "Claude Code failed: broke in two."),
        ({"permission_denials": [{"tool_name": "Bash", "tool_input": {"command": "rm x"}}]}, "was denied Bash (rm x)."),
        ({"permission_denials": [None]}, "was denied ?."),
        ({"num_turns": 0, "result": "Unknown command: /x"}, "The prompt begins with /"),
    ],
)
def test_why_it_failed(answer: dict[str, Any], message: str) -> None:
    failure = concluded({**GOOD, **answer}).failure
    assert failure is not None
    assert message in failure
    assert "\n" not in failure
    assert len(failure) < 1000


def test_why_nothing_was_said() -> None:
    assert "exit code 0 and without a result: it said nothing" in str(concluded(b"").failure)
    assert "more than 16 MiB" in str(concluded(b"{", truncated=True).failure)
    assert "cannot be run in this sandbox: sh: 1: not found" in str(
        concluded(b"", code=127, stderr=b"sh: 1: not found\n").failure
    )
    timed_out = concluded(b"", code=124, timed_out=True)
    assert str(timed_out.failure).startswith("The agent did not end within 60 seconds")
    late = concluded(GOOD, code=124, timed_out=True)
    assert (late.failure is None, late.result) == (False, "done")


def test_structured_output() -> None:
    asked = dataclasses.replace(ASKED, schema={"type": "object"})
    assert concluded({**GOOD, "structured_output": {"n": [1]}}, asked).structured == {"n": [1]}
    nothing: tuple[Any, ...] = (None, [], "x")
    for wrong in nothing:
        assert "no output of the schema" in str(concluded({**GOOD, "structured_output": wrong}, asked).failure)
    deep: Any = {}
    for _level in range(100):
        deep = {"deeper": deep}
    assert "nested deeper" in str(concluded({**GOOD, "structured_output": deep}, asked).failure)
    assert "longer than" in str(concluded({**GOOD, "structured_output": {"x": "y" * (2 << 20)}}, asked).failure)
    for number in ("NaN", "Infinity", "1e999"):
        odd = json.dumps({**GOOD, "structured_output": {"n": "odd"}}).replace('"odd"', number)
        assert concluded(odd.encode(), asked).structured is None
    # What nobody asked for is not returned.
    assert concluded({**GOOD, "structured_output": {"n": 1}}).structured is None


def compared(top: Path, change: Any) -> tuple[dict[str, Any], str]:
    before = task.look(str(top))
    change()
    return task.difference(before, task.look(str(top), before))


def test_what_has_changed(tmp_path: Path) -> None:
    for name in ("same", "touched", "changed", "gone", "mode", "binary", "replaced"):
        (tmp_path / name).write_text("one\n")
    (tmp_path / "binary").write_bytes(b"\0")
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/changed").write_text("a\nb")

    def change() -> None:
        os.utime(tmp_path / "touched")
        (tmp_path / "changed").write_text("one\ntwo\n")
        (tmp_path / "gone").unlink()
        (tmp_path / "mode").chmod(0o755)
        (tmp_path / "binary").write_bytes(b"\1\0")
        (tmp_path / "replaced").unlink()
        (tmp_path / "replaced").symlink_to("/etc/passwd")
        (tmp_path / "deep/er/changed").write_text("a\nc")
        (tmp_path / "new folder").mkdir()
        (tmp_path / "new folder/ne\nw\x1b").write_text("x")

    found, patch = compared(tmp_path, change)
    assert found == {
        "created": ["new folder/ne\nw\x1b"],
        "changed": ["binary", "changed", "deep/er/changed", "mode", "replaced"],
        "deleted": ["gone"],
        "truncated": False,
    }
    assert "--- a/changed\n+++ b/changed\n@@ -1 +1,2 @@\n one\n+two\n" in patch
    assert "+++ b/new folder/ne\\nw\\x1b\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n" in patch
    assert "-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n" in patch
    assert "--- a/binary\n+++ b/binary\n(not compared: no small text)\n" in patch
    assert "mode of mode: 0644 -> 0755\n" in patch
    assert "root:" not in patch


def test_what_an_agent_may_leave(tmp_path: Path) -> None:
    """Nothing is opened that blocks or leads out; what git would run is seen, the rest of .git is not."""

    def change() -> None:
        os.mkfifo(tmp_path / "pipe")
        os.symlink("/", tmp_path / "root")
        os.symlink("loop", tmp_path / "loop")
        os.mkdir(os.fsencode(tmp_path) + b"/\xff")
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff/file")).write_text("x")
        for name in ("hooks", "objects"):
            (tmp_path / "sub/.git" / name).mkdir(parents=True)
            (tmp_path / "sub/.git" / name / "file").write_text("x")
        (tmp_path / "sparse").touch()
        os.truncate(tmp_path / "sparse", 1 << 40)

    found, patch = compared(tmp_path, change)
    assert sorted(found["created"]) == ["\\xff/file", "loop", "pipe", "root", "sparse", "sub/.git/hooks/file"]
    patch.encode()


def test_a_tree_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_FILES_LIMIT", 100)

    def change() -> None:
        deep = os.open(tmp_path, os.O_RDONLY)
        for _level in range(200):
            os.mkdir("d", dir_fd=deep)
            deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = deeper
        os.close(deep)
        for number in range(150):
            (tmp_path / f"f{number}").touch()

    found, _patch = compared(tmp_path, change)
    assert len(found["created"]) == 100
    assert found["truncated"]


def test_folders_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_FILES_LIMIT", 100)

    def change() -> None:
        for number in range(150):
            (tmp_path / f"d{number}").mkdir()

    found, _patch = compared(tmp_path, change)
    assert found == {"created": [], "changed": [], "deleted": [], "truncated": True}


def test_a_difference_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_PATCH_SECONDS", 0.05)
    lines = [f"{number % 150}\n" for number in range(15_000)]
    (tmp_path / "slow").write_text("".join(lines))
    begun = time.monotonic()
    found, patch = compared(tmp_path, lambda: (tmp_path / "slow").write_text("".join(reversed(lines))))
    assert time.monotonic() - begun < 10
    assert found["changed"] == ["slow"]
    assert "takes too long" in patch


def test_bounds_of_the_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_PATCH_LIMIT", 100)
    monkeypatch.setattr(task, "_NAMES_LIMIT", 3)
    found, patch = compared(tmp_path, lambda: [(tmp_path / f"f{number}").write_text("text\n") for number in range(9)])
    assert len(found["created"]) == 3
    assert found["truncated"]
    assert 0 < len(patch) <= 100


def test_comparison_in_a_child(tmp_path: Path) -> None:
    host = Host.this()
    comparison = task.Comparison(host, host.account, str(tmp_path))
    (tmp_path / "new").write_text("x\n")
    files, patch = comparison.result()
    assert files["created"] == ["new"]
    assert "+x" in patch
    task.Comparison(host, host.account, str(tmp_path)).give_up()
    with pytest.raises(SandboxError, match="cannot be looked at"):
        task.Comparison(host, host.account, str(tmp_path / "new"))
    os.symlink(tmp_path, tmp_path / "link")
    with pytest.raises(SandboxError, match="cannot be looked at"):
        task.Comparison(host, host.account, str(tmp_path / "link"))


@pytest.mark.parametrize("number", [0, signal.SIGKILL, signal.SIGTERM])
def test_lifeline(tmp_path: Path, number: int) -> None:
    """What is to be cleaned up is, when the process dies, and only then."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            with task.lifeline((tmp_path / "cleaned").touch):
                os.write(writable, b"+")
                signal.pause() if number else None
        finally:
            os._exit(0)
    os.read(readable, 1)
    if number:
        os.kill(child, number)
    os.waitpid(child, 0)
    end = time.monotonic() + 10
    while number and not (tmp_path / "cleaned").exists():
        assert time.monotonic() < end
        select.select([], [], [], 0.01)
    assert (tmp_path / "cleaned").exists() == bool(number)
    os.close(readable)
    os.close(writable)


def test_nothing_does_something_to_a_terminal() -> None:
    assert task.visible("a\x1b]0;x\x07\r\n\t\u202eb ü") == "a\\x1b]0;x\\x07\\r\n\t\\u202eb ü"
    assert task.line("one\ntwo\x1b" + "x" * 10_000).startswith("one two\\x1bxxx")
    assert len(task.line("x" * 10_000)) == 301
