"""A prompt: what is asked, and what is read of the answer."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import prompt
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.commands import Completed
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.prompt import Report, Task

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
    prompt.conclude(report, asked, Completed(**{"code": 0, "stdout": printed, "stderr": b"", **more}))
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
    assert prompt.arguments(asked, "You are here.", ID) == [
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
    resumed = prompt.arguments(dataclasses.replace(ASKED, session_id=ID), "", "other")
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
