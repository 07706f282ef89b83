# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A prompt as it is given to `claude -p`, and what is read of the answer.

What Claude Code prints is the agent's, who may write it as it likes: it is read as hostile, within bounds, and its
figures are its own word. Measured with Claude Code 2.1.197.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .commands import OUTPUT_LIMIT, Completed
from .errors import SandboxError, shown
from .untrusted import line, well_formed

PERMISSION_MODES = ("acceptEdits", "bypassPermissions", "default", "dontAsk", "plan")
ON_DENIAL = ("fail", "ignore")

_PROMPT_LIMIT = 16 << 20  # bytes
_ARGUMENT_LIMIT = 100_000  # bytes of one argument; the kernel takes 131071
_RESULT_LIMIT = 1 << 20  # characters of what the agent says; bytes of JSON
_DEPTH_LIMIT = 50  # of structured output
_MODELS_LIMIT = 20
_DENIALS_LIMIT = 100
_NUMBER_LIMIT = 1 << 53
_NO_PROGRAM = (126, 127)  # exit codes
_SESSION = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclasses.dataclass(frozen=True)
class Task:
    """What the agent is asked, and how far it may go; None stands for what Claude Code does by itself.

    schema: JSON schema of an object that the agent has to give. session_id: of a conversation to go on with.
    timeout: seconds. on_denial: whether it is a failure when the agent was denied a tool.
    """

    prompt: str
    timeout: float
    permission_mode: str = "bypassPermissions"
    on_denial: str = "fail"
    model: str | None = None
    max_turns: int | None = None
    max_cost_usd: float | None = None
    system_prompt: str | None = None
    append_system_prompt: str | None = None
    allowed_tools: Sequence[str] = ()
    disallowed_tools: Sequence[str] = ()
    schema: Mapping[str, Any] | None = None
    session_id: str | None = None

    @property
    def stdin(self) -> bytes:
        """The prompt as the agent reads it."""
        return self.prompt.encode("utf-8", "surrogateescape")

    def check(self) -> None:
        """Raises SandboxError at the first thing that cannot be asked."""
        if not self.prompt.strip():
            raise SandboxError("prompt is empty.", "Say what the agent is to do.")
        if len(self.stdin) > _PROMPT_LIMIT:
            raise SandboxError(f"prompt is longer than {_PROMPT_LIMIT >> 20} MiB.", "Put it in a file of the project.")
        if self.permission_mode not in PERMISSION_MODES or self.on_denial not in ON_DENIAL:
            raise SandboxError(
                f"There is no permission_mode {shown(self.permission_mode)} or on_denial {shown(self.on_denial)}."
            )
        for name, number in (("timeout", self.timeout), ("max_cost_usd", self.max_cost_usd)):
            if number is not None and not (math.isfinite(number) and number > 0):
                raise SandboxError(f"{name} must be a number above 0, not {shown(number)}.")
        # Claude Code takes 0 turns for as many as it likes.
        if self.max_turns is not None and self.max_turns < 1:
            raise SandboxError(f"max_turns must be at least 1, not {shown(self.max_turns)}.")
        if self.session_id is not None and not _SESSION.fullmatch(self.session_id):
            raise SandboxError(
                f"session_id {shown(self.session_id)} is none.", "Give the session_id that an earlier task returned."
            )
        # Another schema is ignored by Claude Code without a word.
        if self.schema is not None and self.schema.get("type") != "object":
            raise SandboxError("schema is none of an object.", "Give one with `type: object` at its top.")
        for word in arguments(self, "", ""):
            if len(word.encode("utf-8", "surrogateescape")) > _ARGUMENT_LIMIT or "\0" in word:
                option = word.partition("=")[0]
                raise SandboxError(f"{option} has a NUL in it, or is longer than {_ARGUMENT_LIMIT} bytes.")


@dataclasses.dataclass
class Report:
    """What came of a task. What is not known is None.

    failure: why the task failed, and what to do about it, in one line. cost_usd: by Claude Code's own account.
    usage: tokens by kind, and by model. duration_s: seconds that the agent ran. files: created, changed and deleted
    paths, each below the project, and whether these are all (`truncated`). patch: the difference of the texts.
    denials: the tools that the agent was denied. sandbox: its name. kept: whether it is still there.
    """

    session_id: str
    sandbox: str
    kept: bool
    failure: str | None = None
    result: str | None = None
    structured: Any = None
    cost_usd: float | None = None
    usage: dict[str, Any] | None = None
    num_turns: int | None = None
    duration_s: float = 0.0
    denials: list[str] = dataclasses.field(default_factory=list)
    files: dict[str, Any] | None = None
    patch: str = ""
    warnings: list[str] = dataclasses.field(default_factory=list)


# What is asked


def arguments(task: Task, notice: str, session: str) -> list[str]:
    """What follows Claude Code's program. notice: what the agent is told of the sandbox. session: the id of a new one.

    The prompt is not in it: argv can be seen by every account.
    """
    words = ["--print", "--output-format=json", f"--permission-mode={task.permission_mode}"]
    # Of several it takes the last.
    told = "\n\n".join(filter(None, (notice, task.append_system_prompt)))
    words.append(f"--append-system-prompt={told}")
    words.append(f"--resume={task.session_id}" if task.session_id else f"--session-id={session}")
    single = {
        "--model": task.model,
        "--max-turns": task.max_turns,
        "--max-budget-usd": None if task.max_cost_usd is None else f"{task.max_cost_usd:f}",
        "--system-prompt": task.system_prompt,
        "--json-schema": None if task.schema is None else json.dumps(task.schema),
    }
    words += [f"{option}={value}" for option, value in single.items() if value is not None]
    words += [f"--allowedTools={tool}" for tool in task.allowed_tools]
    words += [f"--disallowedTools={tool}" for tool in task.disallowed_tools]
    return words


# What is answered


def conclude(report: Report, task: Task, done: Completed) -> None:
    """Put into the report what Claude Code's output says, or why it failed."""
    answer = _answer(done.stdout)
    if answer is not None:
        _take(report, answer)
    again = f"resume it (session_id: {report.session_id})"
    if done.timed_out:
        report.failure = (
            f"The agent did not end within {task.timeout:g} seconds, and was killed. Raise timeout, or {again}."
        )
    elif answer is None:
        report.failure = _why_silent(done, task)
    else:
        report.failure = _why_failed(report, answer, task, again)


def _answer(output: bytes) -> dict[str, Any] | None:
    """The result that Claude Code prints; where something else is before it, the last line."""
    text = output.decode("utf-8", "replace").strip()
    for candidate in (text, text.rpartition("\n")[2]):
        # A RecursionError is for what is too deep.
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(candidate, parse_constant=_finite, parse_float=_finite)
            if isinstance(found, dict) and found.get("type") == "result":
                return found
    return None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON's")
    return number


def _take(report: Report, answer: Mapping[str, Any]) -> None:
    session = answer.get("session_id")
    if isinstance(session, str) and _SESSION.fullmatch(session):
        report.session_id = session
    if isinstance(answer.get("result"), str):
        result = well_formed(answer["result"])
        report.result = result[:_RESULT_LIMIT]
        if len(result) > _RESULT_LIMIT:
            report.warnings.append(f"The result is longer than {_RESULT_LIMIT} characters, and was cut.")
    report.cost_usd = _number(answer.get("total_cost_usd"))
    turns = _number(answer.get("num_turns"))
    report.num_turns = None if turns is None else int(turns)
    report.usage = _usage(answer.get("modelUsage"))
    denials = answer.get("permission_denials")
    if isinstance(denials, list):
        report.denials = [_denial(each) for each in denials[:_DENIALS_LIMIT]]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 <= value < _NUMBER_LIMIT else None


_KINDS = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_creation_input_tokens": "cacheCreationInputTokens",
    "cache_read_input_tokens": "cacheReadInputTokens",
}


def _usage(models: Any) -> dict[str, Any]:
    """Tokens by kind, of all models and of each; only this counts subagents, too."""
    by_model = {}
    for name, figures in list(models.items())[:_MODELS_LIMIT] if isinstance(models, dict) else ():
        if isinstance(figures, dict):
            tokens = {ours: int(_number(figures.get(theirs)) or 0) for ours, theirs in _KINDS.items()}
            by_model[line(name)] = {**tokens, "cost_usd": _number(figures.get("costUSD"))}
    return {**{kind: sum(each[kind] for each in by_model.values()) for kind in _KINDS}, "by_model": by_model}


def _denial(content: Any) -> str:
    if not isinstance(content, dict):
        return "?"
    asked = content.get("tool_input")
    first = next(iter(asked.values()), "") if isinstance(asked, dict) else ""
    return line(f"{content.get('tool_name')} ({first})" if isinstance(first, str) else f"{content.get('tool_name')}")


def _why_silent(done: Completed, task: Task) -> str:
    """Why there is no result."""
    if done.truncated:
        return f"Claude Code printed more than {OUTPUT_LIMIT >> 20} MiB, which is no result."
    words = line(done.stderr.decode("utf-8", "replace"))
    if done.code in _NO_PROGRAM and not done.stdout:
        return f"Claude Code cannot be run in this sandbox: {words}. Make the sandbox anew once it is installed."
    if "No conversation found" in words:
        return (
            f"There is no conversation {task.session_id} of this project. "
            "Resume it in the project, and with the account, in which it was held."
        )
    if done.stdout.strip():
        return "What Claude Code printed is not a result that can be read; something else may have written there."
    return f"Claude Code ended with exit code {done.code} and without a result: {words or 'it said nothing'}."


def _why_failed(report: Report, answer: Mapping[str, Any], task: Task, again: str) -> str | None:
    kind = answer.get("subtype")
    if kind == "error_max_turns":
        return f"The agent was not ready after {task.max_turns} turns. Raise max_turns, or {again}."
    if kind == "error_max_budget_usd":
        return f"The agent has spent its {task.max_cost_usd:g} US dollars. Raise max_cost_usd, or {again}."
    if answer.get("is_error") is not False or kind != "success":
        return _why_error(report, answer)
    if report.num_turns == 0 and (report.result or "").startswith("Unknown command"):
        return f"The prompt begins with / as a command does, and there is none: {line(report.result or '')}."
    if report.denials and task.on_denial == "fail":
        return (
            f"The agent was denied {report.denials[0]}{', and more' if len(report.denials) > 1 else ''}. "
            "Add the tool to allowed_tools, choose another permission_mode, or set on_denial to ignore."
        )
    if task.schema is not None:
        return _take_structured(report, answer)
    return None


def _why_error(report: Report, answer: Mapping[str, Any]) -> str:
    errors = answer.get("errors")
    words = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], str) else report.result
    said = line(words or str(answer.get("subtype")))
    status = answer.get("api_error_status")
    hint = ""
    if status in (401, 403) or "/login" in said:
        hint = " Give a valid api_key, or log Claude Code in with the sandbox's account."
    elif status == 429:
        hint = " Wait until the account's limits allow more, then try again."
    elif isinstance(status, int) and status >= 500:
        hint = " It is the service's own trouble: try again later."
    return f"Claude Code failed: {said.rstrip('.')}.{hint}"


def _take_structured(report: Report, answer: Mapping[str, Any]) -> str | None:
    """Put the structured output into the report; why there is none otherwise."""
    if not isinstance(answer.get("structured_output"), dict):
        return "The agent gave no output of the schema's form. Say in the prompt what belongs into it."
    try:
        found = _cleaned(answer["structured_output"], _DEPTH_LIMIT)
    except ValueError:
        return f"The agent's structured output is nested deeper than {_DEPTH_LIMIT} times."
    if len(json.dumps(found)) > _RESULT_LIMIT:
        return f"The agent's structured output is longer than {_RESULT_LIMIT} bytes."
    report.structured = found
    return None


def _cleaned(value: Any, depth: int) -> Any:
    """A value of JSON's whose texts are valid Unicode. Raises ValueError where it is too deep."""
    if depth < 0:
        raise ValueError("too deep")
    if isinstance(value, dict):
        return {well_formed(key): _cleaned(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_cleaned(each, depth - 1) for each in value]
    return well_formed(value) if isinstance(value, str) else value
