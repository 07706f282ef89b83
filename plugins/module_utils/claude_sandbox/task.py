# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A prompt as a task: one run of `claude -p` in a sandbox, what it answered, and what became of the project.

What Claude Code prints, and what is in the project, are the agent's: it may write both as it likes. All of it is read
as hostile, within bounds, and its figures are its own word. Measured with Claude Code 2.1.197.

The project is compared without git. Git would run what the agent has written into .git/config, and where it ran
inside, the agent would write the answer, too; a copy would cost as much as the project. So a child, under the
sandbox's account, looks at the whole tree before and after (sizes, times, modes), and keeps small texts in memory
meanwhile, those nearest to the top first. With 50,000 files of 3 KiB that takes a second before and half of one after.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import itertools
import json
import math
import os
import re
import select
import signal
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import agent, keys, lifecycle, namespaces, procs, toolchain
from .commands import OUTPUT_LIMIT, Completed
from .errors import ConflictError, SandboxError, shown
from .grants import Bind
from .host import Account, Host
from .sandboxes import Request, Sandboxes
from .spec import Spec, parse

PERMISSION_MODES = ("acceptEdits", "bypassPermissions", "default", "dontAsk", "plan")
ON_DENIAL = ("fail", "ignore")

_PROMPT_LIMIT = 16 << 20  # bytes
_ARGUMENT_LIMIT = 100_000  # bytes of one argument; the kernel takes 131071
_RESULT_LIMIT = 1 << 20  # characters of what the agent says; bytes of JSON
_DEPTH_LIMIT = 50  # of structured output
_MODELS_LIMIT = 20
_DENIALS_LIMIT = 100
_LINE_LIMIT = 300  # characters of the agent's words in a message
_NUMBER_LIMIT = 1 << 53

# Its program and its plugins are read-only inside, as for every agent (see agent.py).
_CLAUDE_ENV = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_INSTALLATION_CHECKS": "1",
    "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
}
_MARK = "CLAUDE_SANDBOX_TASK"
_KILL_MARKED = """\
for folder in /proc/[0-9]*; do
    if grep -qzx "$0" "$folder/environ" 2>/dev/null; then kill -KILL "${folder#/proc/}" 2>/dev/null; fi
done
true
"""
_WRITE_STATE = 'umask 077 && exec cat >"$HOME/.claude.json"'
_NO_PROGRAM = (126, 127)

# The name of a sandbox made for a task says which process made it: pid and start time.
_MADE = re.compile(r"task-([0-9]{1,10})-([0-9]{1,20})-[0-9a-f]{8}")
_SESSION = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HOLD_SECONDS = 600  # that a sandbox may outlast the time that its task has
_CLEAN_SECONDS = 60.0

_FILES_LIMIT = 100_000  # that are looked at, and as many folders
_DEPTH_OF_TREE = 64
_TEXT_LIMIT = 64 << 10  # bytes of a file whose text is compared
_TEXTS_LIMIT = 64 << 20  # bytes of all texts that are kept
_NAMES_LIMIT = 5_000  # of changed files that are named
_PATCH_LIMIT = 1 << 20  # characters
_PATCH_SECONDS = 2.0  # for the difference of one file
_PATCHES_SECONDS = 20.0
_GIT = ".git"
# What is looked at in a .git: what makes git run programs.
_OF_GIT = frozenset({"config", "config.worktree", "hooks", "info"})


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
        result = _text(answer["result"])
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
        return {_text(key): _cleaned(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_cleaned(each, depth - 1) for each in value]
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    """Text without halves of characters, which no result of Ansible's may have."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def visible(text: str) -> str:
    """Text that does nothing to a terminal: what is neither printed nor an end of line or a tab is written out."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text
    )


def line(text: str) -> str:
    """The agent's words as they may stand in a message: on one line, of bounded length."""
    words = visible(" ".join(_text(text[: _LINE_LIMIT * 4]).split()))
    return words if len(words) <= _LINE_LIMIT else f"{words[:_LINE_LIMIT]}…"


# What became of the project


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A file as it was found. kind: file, link or other. mark: what is another once it was written to.

    content: of a small text; of a link where it points to; None where it is not kept.
    """

    kind: str
    mode: int
    mark: tuple[int, ...]
    content: bytes | None


@dataclasses.dataclass
class Tree:
    """The files below a directory by their paths, and whether these are all."""

    entries: dict[str, Entry] = dataclasses.field(default_factory=dict)
    complete: bool = True
    kept: int = 0  # bytes

    def differs(self, other: Tree, path: str) -> bool:
        """Whether a file that is in both is another one."""
        old, new = self.entries[path], other.entries[path]
        if (old.kind, old.mode) != (new.kind, new.mode):
            return True
        if old.content is not None and new.content is not None:
            return old.content != new.content
        return old.mark != new.mark


def difference(before: Tree, after: Tree) -> tuple[dict[str, Any], str]:
    """The files created, changed and deleted, and the difference of their texts."""
    created = sorted(after.entries.keys() - before.entries.keys())
    deleted = sorted(before.entries.keys() - after.entries.keys())
    changed = sorted(path for path in before.entries.keys() & after.entries.keys() if before.differs(after, path))
    complete = before.complete and after.complete
    found: dict[str, Any] = {}
    room = _NAMES_LIMIT
    for kind, paths in (("created", created), ("changed", changed), ("deleted", deleted)):
        found[kind] = [named(path) for path in paths[:room]]
        complete = complete and len(paths) <= room
        room -= len(found[kind])
    patch, whole = _patch(before, after, sorted([*created, *changed, *deleted])[:_NAMES_LIMIT])
    return {**found, "truncated": not (complete and whole)}, patch


def named(path: str) -> str:
    """A path as text: bytes that are none are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _patch(before: Tree, after: Tree, paths: Sequence[str]) -> tuple[str, bool]:
    """The differences of these files, and whether these are all."""
    pieces: list[str] = []
    left = _PATCH_LIMIT
    end = time.monotonic() + _PATCHES_SECONDS
    for path in paths:
        piece = _patch_of(path, before.entries.get(path), after.entries.get(path), end - time.monotonic())
        if len(piece) > left:
            return "".join(pieces), False
        pieces.append(piece)
        left -= len(piece)
    return "".join(pieces), True


def _patch_of(path: str, old: Entry | None, new: Entry | None, seconds: float) -> str:
    name = visible(named(path)).replace("\n", "\\n").replace("\t", "\\t")
    head = f"--- {f'a/{name}' if old else '/dev/null'}\n+++ {f'b/{name}' if new else '/dev/null'}\n"
    if old and new and old.mode != new.mode:
        head = f"mode of {name}: {old.mode:04o} -> {new.mode:04o}\n{head}"
    texts = [_lines(entry) for entry in (old, new)]
    if texts[0] is None or texts[1] is None:
        return f"{head}(not compared: no small text)\n"
    try:
        with _at_most(min(seconds, _PATCH_SECONDS)):
            found = list(itertools.islice(difflib.unified_diff(texts[0], texts[1]), 2, None))
    except _TooLongError:
        return f"{head}(not compared: it takes too long)\n"
    return head + "".join(each if each.endswith("\n") else f"{each}\n\\ No newline at end of file\n" for each in found)


def _lines(entry: Entry | None) -> list[str] | None:
    """The lines of a file's text, none of one that is not there; None where it has no text that can be compared."""
    if entry is None:
        return []
    if entry.content is None:
        return None
    try:
        text = entry.content.decode()
    except UnicodeDecodeError:
        return None
    *whole, rest = text.split("\n")
    return [f"{each}\n" for each in whole] + ([rest] if rest else [])


class _TooLongError(Exception):
    """Something took longer than it may."""


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises _TooLongError in what takes longer; in a process of one thread."""

    def late(_number: int, _frame: object) -> None:
        raise _TooLongError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# Edges: files


def look(top: str, before: Tree | None = None) -> Tree:
    """The files below a directory, the upper ones first, with the texts of those that are not as in `before`.

    No link is followed, nothing but a regular file is opened, and what cannot be read is left out.
    """
    tree, folders = Tree(), 0
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        waiting: collections.deque[tuple[str, ...]] = collections.deque([()])
        while waiting:
            parts = waiting.popleft()
            if len(tree.entries) >= _FILES_LIMIT or folders >= _FILES_LIMIT or len(parts) > _DEPTH_OF_TREE:
                tree.complete = False
                continue
            folders += 1
            try:
                waiting.extend(_look_into(root, parts, tree, before))
            except OSError:
                # It was taken away meanwhile, or nobody may read it.
                tree.complete = False
    finally:
        os.close(root)
    return tree


def _look_into(root: int, parts: tuple[str, ...], tree: Tree, before: Tree | None) -> list[tuple[str, ...]]:
    """Put the files of one folder into the tree; the folders in it."""
    folder = _opened(root, parts)
    deeper = []
    try:
        with os.scandir(folder) as entries:
            found = list(itertools.islice(entries, _FILES_LIMIT + 1))
        tree.complete = tree.complete and len(found) <= _FILES_LIMIT
        for entry in sorted(found, key=lambda each: each.name):
            if parts and parts[-1] == _GIT and entry.name not in _OF_GIT:
                continue
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    deeper.append((*parts, entry.name))
                elif len(tree.entries) >= _FILES_LIMIT:
                    tree.complete = False
                    break
                else:
                    path = "/".join((*parts, entry.name))
                    tree.entries[path] = _entry(folder, entry, tree, before.entries.get(path) if before else None)
    finally:
        os.close(folder)
    return deeper


def _opened(root: int, parts: Sequence[str]) -> int:
    """A descriptor of a folder, on the way to which no link is followed. Raises OSError."""
    folder = os.dup(root)
    for part in parts:
        try:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def _entry(folder: int, entry: os.DirEntry[str], tree: Tree, before: Entry | None) -> Entry:
    status = entry.stat(follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    # Unlike the time of a change (mtime), that of a change of the inode cannot be set by who makes it.
    mark = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if stat.S_ISLNK(status.st_mode):
        with contextlib.suppress(OSError):
            return Entry("link", mode, mark, os.fsencode(os.readlink(entry.name, dir_fd=folder)))
        return Entry("link", mode, mark, None)
    if not stat.S_ISREG(status.st_mode):
        return Entry("other", mode, (stat.S_IFMT(status.st_mode), status.st_rdev), None)
    if before is not None and before.mark == mark:
        return Entry("file", mode, mark, before.content)
    content = None
    if status.st_size <= _TEXT_LIMIT and tree.kept + status.st_size <= _TEXTS_LIMIT:
        content = _small_text(folder, entry.name)
        tree.kept += len(content or b"")
    return Entry("file", mode, mark, content)


def _small_text(folder: int, name: str) -> bytes | None:
    """What is in a regular file, where it is small and text."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = os.read(descriptor, _TEXT_LIMIT + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None if len(content) > _TEXT_LIMIT or b"\0" in content else content


class Comparison:
    """A child that looks at a project now, under the account whose it is, and again when it is asked what changed."""

    def __init__(self, host: Host, owner: Account, project_dir: str) -> None:
        """Look at it. Raises SandboxError where it cannot be read."""
        seen, tell = os.pipe()
        asked, self._ask = os.pipe()

        def work() -> Any:
            namespaces.die_with_parent()
            os.close(seen)
            os.close(self._ask)
            try:
                before = look(project_dir)
                os.write(tell, b"+")
                # Nothing comes where the parent has given up, or is gone.
                return difference(before, look(project_dir, before)) if os.read(asked, 1) else None
            except OSError as error:
                raise SandboxError(f"{shown(project_dir)} cannot be looked at: {error.strerror}.") from None

        self._child = procs.fork(owner if owner.uid != host.uid else None, work)
        os.close(tell)
        os.close(asked)
        with open(seen, "rb") as pipe:
            if not pipe.read(1):
                os.close(self._ask)
                self._child.result()

    def result(self) -> tuple[dict[str, Any], str]:
        """What has changed since: the files, and the difference of their texts. Raises SandboxError."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._ask, b"+")
        os.close(self._ask)
        files, patch = self._child.result()
        return files, patch

    def give_up(self) -> None:
        """End it, where nobody wants to know any more."""
        os.close(self._ask)
        with contextlib.suppress(SandboxError):
            self._child.result()


# Edges: sandboxes


def in_new(engine: Sandboxes, asked: Request, task: Task, keep: bool) -> Report:
    """Carry a task out in a sandbox made for it, which is removed then unless it is to be kept.

    asked: its parameters; name, state and agent are chosen here. Raises SandboxError where it cannot be made.
    """
    task.check()
    clear(engine)
    request = _new(engine, asked, task, keep)
    spec = parse(request.params or {})
    with contextlib.ExitStack() as held:
        if not keep:
            # Loaded now: what this was loaded from may be gone with this process.
            from . import changes, view  # noqa: F401

            lifecycle.backend(spec)
            held.enter_context(lifeline(lambda: remove(engine, request.name)))
        outcome = engine.ensure(request)
        report = Report(task.session_id or str(uuid.uuid4()), request.name, keep, warnings=list(outcome.warnings))
        try:
            _write_state(engine, request)
            _work(engine, request.name, task, {}, report)
        finally:
            if not keep:
                report.warnings += _removed(engine, request.name)
                report.kept = engine.registry.get(request.name) is not None
    return report


def in_existing(engine: Sandboxes, ref: str, task: Task, env: Mapping[str, str]) -> Report:
    """Carry a task out beside the agent of a running sandbox. env: variables beside that agent's."""
    task.check()
    name = engine.registry.resolve(ref).name
    report = Report(task.session_id or str(uuid.uuid4()), name, kept=True)
    mark = os.urandom(8).hex()

    def end_all() -> None:
        _end_marked(engine, name, mark)

    with lifeline(end_all):
        if _work(engine, name, task, {**env, _MARK: mark}, report).timed_out:
            # What the agent has started is no longer of its process group.
            end_all()
    return report


def _end_marked(engine: Sandboxes, name: str, mark: str) -> None:
    """End what a task's agent has started, as far as it still has the variable that the task gave it."""
    # It may have ended meanwhile.
    with contextlib.suppress(SandboxError):
        if engine.registry.resolve(name).asked().backend == "vm":
            engine.execute(name, ["sh", "-c", _KILL_MARKED, f"{_MARK}={mark}"], cwd="/", timeout=_CLEAN_SECONDS)
            return
    # From outside: to another command inside, Landlock shows nothing of them.
    wanted = f"\0{_MARK}={mark}\0".encode()
    for process in filter(None, map(procs.identify, procs.every_pid())):
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
            if wanted in b"\0" + file.read():
                process.signal(signal.SIGKILL)


def preview(engine: Sandboxes, asked: Request, task: Task, keep: bool) -> None:
    """Raises SandboxError where in_new would, as far as that can be known before."""
    task.check()
    engine.ensure(_new(engine, asked, task, keep), check=True)


def clear(engine: Sandboxes) -> None:
    """Remove the sandboxes of tasks whose process is gone, with the process that would have removed them."""
    for name in engine.registry.names():
        made = _MADE.fullmatch(name)
        if made and not procs.Process(int(made[1]), int(made[2])).alive():
            with contextlib.suppress(SandboxError):
                record = engine.registry.get(name)
                if record is not None and record.asked().agent[0] == "sleep":
                    engine.ensure(Request(name, "absent"))


def remove(engine: Sandboxes, name: str) -> None:
    """Remove a sandbox, whoever still holds it. Raises SandboxError where it is held for too long."""
    end = time.monotonic() + _CLEAN_SECONDS
    while True:
        try:
            engine.ensure(Request(name, "absent"))
            return
        except ConflictError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _removed(engine: Sandboxes, name: str) -> list[str]:
    """Remove the sandbox; what went wrong, for nothing of what is known may be lost by that."""
    try:
        remove(engine, name)
    except SandboxError as error:
        return [f"Sandbox {name} could not be removed: {error.what}"]
    return []


@contextlib.contextmanager
def lifeline(clean: Callable[[], None]) -> Iterator[None]:
    """Have `clean` called by a process of its own where this one dies, however that happens, before it is through."""
    # Of this process, before there is another: so it cannot be mistaken for a later one.
    ours = os.pidfd_open(os.getpid())
    child = os.fork()
    if not child:
        try:
            _outlive(ours)
            clean()
        finally:
            os._exit(0)
    os.close(ours)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _outlive(other: int) -> None:
    """Wait until another process, given by its pidfd, has ended; hold nothing of what it has opened."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.closerange(3, other)
    os.closerange(other + 1, os.sysconf("SC_OPEN_MAX"))
    poller = select.poll()
    poller.register(other, select.POLLIN)
    poller.poll()


def _new(engine: Sandboxes, asked: Request, task: Task, keep: bool) -> Request:
    """What is asked of the engine: a sandbox in which a program waits for a bounded time; in one to keep, a shell."""
    params = {**(asked.params or {}), "agent": ["claude"]}
    spec = parse(params)
    owner = engine.owner(spec)
    mounts = [
        *(mount.__dict__ for mount in spec.mounts),
        *({"source": bind.source, "target": bind.target} for bind in _program(engine, spec, owner)[1]),
    ]
    process = procs.identify(os.getpid())
    if process is None:
        raise SandboxError("This process cannot see itself: /proc is not there.")
    who = "task" if keep else f"task-{process.pid}-{process.start}"
    holder = ["shell"] if keep else ["sleep", str(math.ceil(task.timeout) + _HOLD_SECONDS)]
    more = {"agent": holder, "mounts": mounts, "env": {**_CLAUDE_ENV, **spec.env}, "user": owner.name}
    return dataclasses.replace(asked, name=f"{who}-{os.urandom(4).hex()}", state="started", params={**params, **more})


def _program(engine: Sandboxes, spec: Spec, owner: Account) -> tuple[list[str], tuple[Bind, ...]]:
    """Claude Code's program in such a sandbox, and what must be mounted for it. Raises SandboxError."""

    def find() -> Any:
        argv, binds = toolchain.agent_argv(spec, toolchain.find(spec), owner)
        return argv, [[bind.source, bind.target] for bind in binds]

    argv, binds = lifecycle.as_owner(engine.host, owner, None, find)
    return argv, tuple(Bind(source, target) for source, target in binds)


def _write_state(engine: Sandboxes, request: Request) -> None:
    """Give the sandbox the account's ~/.claude.json, as one whose agent is Claude Code has it from the start."""
    record = engine.registry.resolve(request.name)
    spec = dataclasses.replace(record.asked(), agent=["claude"])
    owner, secrets = engine.owner(spec), keys.variables(record)

    def read() -> str:
        shared = spec.granted("claude")
        return agent.files_inside(spec, owner, "", shared, secrets)[agent.places_of_files(owner)[-1]].decode()

    content = lifecycle.as_owner(engine.host, owner, None, read)
    done = engine.execute(
        request.name, ["sh", "-c", _WRITE_STATE], cwd="/", stdin=content.encode(), timeout=_CLEAN_SECONDS
    )
    if done.code:
        words = line(done.stderr.decode(errors="replace"))
        raise SandboxError(f"Claude Code's settings could not be put into the sandbox: {words}.")


def _work(engine: Sandboxes, name: str, task: Task, env: Mapping[str, str], report: Report) -> Completed:
    """Have the agent work in a running sandbox, and put into the report what came of it."""
    record = engine.registry.resolve(name)
    spec = dataclasses.replace(record.asked(), agent=["claude"])
    owner = engine.owner(spec)
    program, _binds = _program(engine, spec, owner)
    argv = [*program, *arguments(task, agent.notice(spec), report.session_id)]
    comparison = Comparison(engine.host, owner, spec.project_dir)
    try:
        begun = time.monotonic()
        done = engine.execute(name, argv, env={**_CLAUDE_ENV, **env}, stdin=task.stdin, timeout=task.timeout)
        report.duration_s = round(time.monotonic() - begun, 3)
    except BaseException:
        comparison.give_up()
        raise
    conclude(report, task, done)
    try:
        report.files, report.patch = comparison.result()
    except SandboxError as error:
        report.warnings.append(f"What the agent has changed is not known: {error.what}")
    return done
