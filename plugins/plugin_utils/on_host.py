# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plugins run on a sandbox's host. It comes through standard input, and needs Python there and nothing else.

After this text comes a line of JSON, the order, and after that what the order is about: the engine's archive, or what
the command inside is to read. It is read to the byte, for what follows belongs to another process.

The answer stands on standard error, between marks that only the two ends know: whatever a sandbox prints, and
whatever sudo or a login script says before, cannot be taken for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import marshal
import os
import pwd
import re
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import MAGIC_NUMBER
from types import CodeType, FrameType, ModuleType
from typing import Any

_PIECE = 1 << 16  # bytes
_DIGEST_SIZE = 32  # bytes
_KEPT_SECONDS = 30 * 86400  # for which an engine that has not been renewed stays
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_OLDEST_PYTHON = (3, 11)
_ENGINE_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-f]{8}\Z")


class RefusedError(Exception):
    """What is to be told to the controller in one line."""


class _Finder:
    """Imports the engine from memory: nothing is read from a path once a sandbox was entered."""

    def __init__(self, modules: Mapping[str, tuple[bool, bytes]]) -> None:
        self._modules = modules

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        """The module's spec, where it is one of the engine's."""
        found = self._modules.get(name)
        return None if found is None else ModuleSpec(name, self, is_package=found[0])  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> ModuleType | None:
        """None, for the usual kind of module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        code: CodeType = marshal.loads(self._modules[module.__name__][1])  # noqa: S302 - see _checked
        exec(code, module.__dict__)  # noqa: S102 - this is how a module is loaded


def main() -> None:
    """Carry out the order, and answer."""
    order = json.loads(_line())
    for descriptor in (1, 2):
        _write(descriptor, f"{order['mark']}\n".encode())
    try:
        if sys.version_info < _OLDEST_PYTHON:
            version = ".".join(map(str, sys.version_info[:3]))
            raise RefusedError(f"Python is {version} here, and has to be 3.11 or newer: set ansible_sandbox_python.")
        answer = _carried_out(order)
    except RefusedError as refused:
        answer = {"refused": str(refused)}
    _write(2, f"{order['mark']}{json.dumps(answer)}\n".encode())


def _line() -> bytes:
    """A line of standard input, and not a byte more."""
    with open(0, "rb", 0, closefd=False) as source:
        return source.readline()


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _carried_out(order: Mapping[str, Any]) -> dict[str, Any]:
    folder = _folder(order["folder"])
    path = f"{folder}/{order['engine']}-{MAGIC_NUMBER.hex()}"
    if order["operation"] == "install":
        _install(folder, path, order["engine"])
        return {}
    modules = _checked(path)
    if modules is None:
        return {"missing": True}
    sys.meta_path.insert(0, _Finder(modules))
    work = {"run": _run, "list": _list}[order["operation"]]
    return _watched(lambda: work(order), order["limit"])


# The engine


def _folder(asked: str) -> str:
    """The folder of engines, which is this account's alone."""
    home = pwd.getpwuid(os.geteuid()).pw_dir
    path = f"{home}{asked[1:]}" if asked == "~" or asked.startswith("~/") else asked
    if not path.startswith("/"):
        raise RefusedError(f"{path!a} is no absolute path: set ansible_sandbox_engine_dir.")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.lstat(path)
    except OSError as error:
        raise RefusedError(
            f"{path!a} cannot be made: {error.strerror}. Set ansible_sandbox_engine_dir to another folder."
        ) from None
    if not stat.S_ISDIR(status.st_mode) or not _is_ours(status):
        raise RefusedError(f"{path!a} is no folder that only this account can write to.")
    return path


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _checked(path: str) -> dict[str, tuple[bool, bytes]] | None:
    """The engine's modules; None where it is not there whole, or another account could have changed it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read() if stat.S_ISREG(status.st_mode) and _is_ours(status) else b""
    except OSError:
        return None
    digest, packed = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    if not packed or hashlib.sha256(packed).digest() != digest:
        return None
    modules: dict[str, tuple[bool, bytes]] = marshal.loads(packed)  # noqa: S302 - only this account has written it
    return modules


def _install(folder: str, path: str, digest: str) -> None:
    """Keep the engine that follows, compiled, for this and later calls."""
    with open(0, "rb", closefd=False) as source:
        content = source.read()
    if hashlib.sha256(content).hexdigest() != digest:
        raise RefusedError("The engine has arrived damaged.")
    modules = {
        name: (is_package, marshal.dumps(compile(text, f"<{name}>", "exec", dont_inherit=True)))
        for name, (is_package, text) in json.loads(content).items()
    }
    packed = marshal.dumps(modules)
    draft = f"{path}.{os.getpid()}"
    try:
        _clear(folder)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(hashlib.sha256(packed).digest() + packed)
        os.replace(draft, path)
    except OSError as error:
        raise RefusedError(f"The engine cannot be kept in {folder!a}: {error.strerror}.") from None


def _clear(folder: str) -> None:
    """Delete the engines of long ago, and what calls that were broken off have left."""
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if _ENGINE_NAME.match(name.partition(".")[0]) and os.lstat(path).st_mtime < time.time() - _KEPT_SECONDS:
            os.unlink(path)


# The work


def _engine(order: Mapping[str, Any]) -> Any:
    return import_module("claude_sandbox.sandboxes").Sandboxes(state_dir=order["state_dir"])


def _list(order: Mapping[str, Any]) -> dict[str, Any]:
    """Print the sandboxes as JSON."""
    _write(1, json.dumps(_engine(order).views()).encode())
    return {}


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run a command in a sandbox with the standard streams of this process."""
    engine, name = _engine(order), order["name"]
    record = engine.registry.resolve(name)
    record.asked()
    status = engine.status(record)
    if status != "running":
        why = {"dead": "is dead: its program has ended", "stopped": "is stopped"}.get(status, f"is {status}")
        raise RefusedError(f"Sandbox {name!a} {why}. Start it first (state: started).")
    argv = order["argv"]
    if not order["secrets"]:
        # What a module can see is in its facts, and so in caches and logs.
        names = sorted(import_module("claude_sandbox.keys").variables(record))
        argv = ["env", *(word for secret in names for word in ("-u", secret)), *argv] if names else argv
    if record.asked().backend == "bubblewrap":
        return {"code": engine.enter(name, argv)}
    # There a command's output comes when it has ended, and only so much of it.
    with open(0, "rb", closefd=False) as source:
        done = engine.execute(name, argv, stdin=source.read())
    if done.truncated:
        raise RefusedError(f"The command printed more than can be had from a {record.asked().backend}: 16 MiB.")
    _write(1, done.stdout)
    _write(2, done.stderr)
    return {"code": done.code}


def _watched(work: Callable[[], dict[str, Any]], limit: int) -> dict[str, Any]:
    """Do work in a child, and pass on what it prints; it ends when nobody listens any more, or a signal asks for it.

    limit: bytes of output, more than which is refused. Raises RefusedError.
    """
    outputs, answer = [os.pipe(), os.pipe()], os.pipe()
    # Loaded before the fork, it knows there whose child it is.
    namespaces = import_module("claude_sandbox.namespaces")
    for each in _ENDING:
        signal.signal(each, _give_up)
    child = os.fork()
    if child == 0:
        _be_child(work, outputs, answer, namespaces.die_with_parent)
    for _source, sink in (*outputs, answer):
        os.close(sink)
    try:
        _pass_on({source: number for number, (source, _sink) in enumerate(outputs, 1)}, limit)
    except BaseException:
        _end(child)
        raise
    finally:
        os.waitpid(child, 0)
    with open(answer[0], "rb") as source:
        told = source.read()
    if not told:
        raise RefusedError("The engine ended without an answer.")
    found: dict[str, Any] = json.loads(told)
    return found


def _give_up(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end(child: int) -> None:
    """End a child with all that it has started: what runs inside leads a group, and its children are in that.

    What it starts meanwhile ends by itself: it is told to die with its parent, or asks whether that is still there.
    """
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    below = [process.pid for process in import_module("claude_sandbox.procs").descendants(child)]
    for pid in (*below, child):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != os.getpgid(0):
                os.killpg(os.getpgid(pid), signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)


def _be_child(
    work: Callable[[], dict[str, Any]],
    outputs: list[tuple[int, int]],
    answer: tuple[int, int],
    die_with_parent: Callable[[], None],
) -> None:
    """Work, tell what became of it, and end."""
    try:
        for each in _ENDING:
            signal.signal(each, signal.SIG_DFL)
        die_with_parent()
        for number, (source, sink) in enumerate(outputs, 1):
            os.close(source)
            os.dup2(sink, number)
            os.close(sink)
        try:
            told = work()
        except RefusedError as refused:
            told = {"refused": str(refused)}
        except Exception as error:  # noqa: BLE001 - whatever it was, the controller has to hear of it
            told = {"refused": _words(error)}
        _write(answer[1], json.dumps(told).encode())
    finally:
        os._exit(0)


def _words(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, import_module("claude_sandbox.errors").SandboxError):
        return " ".join(part for part in error.args if part)
    last = "".join(str(error).strip().splitlines()[-1:])
    return f"The engine failed: {type(error).__name__}: {last}."


def _pass_on(sinks: Mapping[int, int], limit: int) -> None:
    """Copy from each descriptor to another until all have ended. Raises RefusedError."""
    poller = select.poll()
    for source in sinks:
        poller.register(source, select.POLLIN)
    # Of a pipe that is only written to, no event is asked for: that its reader is gone is always told.
    poller.register(1, 0)
    left, passed = set(sinks), 0
    while left:
        for descriptor, _event in poller.poll():
            if descriptor == 1:
                raise RefusedError("Nobody reads the output any more.")
            piece = os.read(descriptor, _PIECE)
            passed += len(piece)
            if passed > limit:
                raise RefusedError(f"The command printed more than {limit} bytes (ansible_sandbox_output_limit).")
            _write(sinks[descriptor], piece)
            if not piece:
                poller.unregister(descriptor)
                left.discard(descriptor)


if __name__ == "__main__":
    main()
