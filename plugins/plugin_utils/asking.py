# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking many hosts at a time, each by a process of its own, so that none can keep the others waiting."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ansible.errors import AnsibleError

_LIMIT = 64 << 20  # bytes of one host's answer
_PIECE = 1 << 16  # bytes


@dataclasses.dataclass(frozen=True)
class Reply:
    """What asking a host has brought: the answer, which is JSON's, or why there is none."""

    answer: Any = None
    failure: str | None = None


@dataclasses.dataclass
class _Asked:
    host: str
    pid: int
    end: float
    told: bytearray = dataclasses.field(default_factory=bytearray)


def ask_all(questions: Mapping[str, Callable[[], Any]], forks: int, seconds: float) -> dict[str, Reply]:
    """The replies of all hosts. forks: how many are asked at a time. seconds: how long each may take."""
    replies: dict[str, Reply] = {}
    waiting = list(questions)
    with selectors.DefaultSelector() as selector:
        while waiting or selector.get_map():
            while waiting and len(selector.get_map()) < max(1, forks):
                host = waiting.pop(0)
                source, pid = _fork(questions[host])
                selector.register(source, selectors.EVENT_READ, _Asked(host, pid, time.monotonic() + seconds))
            _listen(selector, replies, seconds)
    return {host: replies[host] for host in questions}


def _listen(selector: selectors.BaseSelector, replies: dict[str, Reply], seconds: float) -> None:
    """Take in what has come, until there is something or one is late."""
    next_end = min(key.data.end for key in selector.get_map().values())
    ready = {key.fd for key, _events in selector.select(max(0.0, next_end - time.monotonic()))}
    for key in list(selector.get_map().values()):
        asked: _Asked = key.data
        piece = os.read(key.fd, _PIECE) if key.fd in ready else None
        asked.told += piece or b""
        reply = None
        if piece == b"":
            reply = _reply(bytes(asked.told))
        elif len(asked.told) > _LIMIT:
            reply = Reply(failure="It answers without an end.")
        elif time.monotonic() >= asked.end:
            reply = Reply(failure=f"It did not answer within {seconds:g} seconds.")
        if reply is not None:
            replies[asked.host] = reply
            selector.unregister(key.fd)
            os.close(key.fd)
            _end(asked.pid)


def _reply(told: bytes) -> Reply:
    try:
        return Reply(**json.loads(told))
    except (ValueError, TypeError):
        return Reply(failure="The process that asked it ended without an answer.")


def _end(pid: int) -> None:
    """End a process and what it has started, ssh for example; one that has ended by itself is only reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _fork(question: Callable[[], Any]) -> tuple[int, int]:
    """Start asking: a descriptor of the reply, and the process."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        _ask(question, sink)
    os.close(sink)
    return source, pid


def _ask(question: Callable[[], Any], sink: int) -> NoReturn:
    try:
        # Without a terminal nothing can wait for a password to be typed.
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            told = {"answer": question()}
        except AnsibleError as error:
            told = {"failure": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever it was, the others are asked all the same
            told = {"failure": f"{type(error).__name__}: {error}"}
        with open(sink, "wb") as file:
            file.write(json.dumps(told).encode())
    finally:
        os._exit(0)
