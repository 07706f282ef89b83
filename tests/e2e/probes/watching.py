"""What the host sees: the terminal of somebody who looks on, processes, files with a secret in them."""

from __future__ import annotations

import base64
import contextlib
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.support.account import Account

from .stage import until


def terminal_output(argv: Sequence[str], account: Account, seconds: float, meanwhile: Iterable[object] = ()) -> bytes:
    """What a program writes to the terminal it runs in: the last stop before a person's eyes, and clipboard.

    meanwhile: worked through while it runs.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        argv,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.DEVNULL,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        env={"TERM": "xterm-256color", "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        start_new_session=True,
        cwd="/",
    )
    os.close(slave)
    data = _read(master, 0.3)
    for _ in meanwhile:
        data += _read(master, 0.05)
    data += _read(master, seconds)
    process.kill()
    process.wait(10)
    os.close(master)
    return data


def _read(descriptor: int, seconds: float) -> bytes:
    data, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and select.select([descriptor], [], [], left)[0]:
        try:
            data += os.read(descriptor, 65536)
        except OSError:
            # The other end is closed: there is nothing more.
            break
    return data


def obeyed_sequences(output: bytes, text: str) -> list[bytes]:
    """The sequences in a terminal's output that carry a text to something else than the screen."""
    encoded = base64.b64encode(text.encode()).rstrip(b"=")[:-1]
    carried = b"|".join(re.escape(each) for each in (text.encode(), encoded))
    return [match[0] for match in re.finditer(rb"\x1b[\]P_^kX][^\x07\x1b]*(?:" + carried + rb")", output)]


def command_lines_with(text: str) -> list[int]:
    """The processes of the whole machine in whose command line a text stands."""
    return [pid for pid in _pids() if text.encode() in _content(pid, "cmdline")]


def environments_with(text: str) -> list[int]:
    """Those of the host, and of no sandbox, in whose environment it stands."""
    host = os.stat("/proc/self/ns/pid").st_ino
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/pid").st_ino == host and text.encode() in _content(pid, "environ"):
                found.append(pid)
    return found


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _content(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def files_with(text: str, tops: Iterable[str | Path]) -> list[str]:
    """The files below some folders in which a text stands."""
    found = []
    for top in tops:
        for path in Path(top).rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes():
                    found.append(str(path))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    stat = _content(pid, "stat").rpartition(b")")[2].split()
    return bool(stat) and stat[0] not in (b"Z", b"X")


def gone(*pids: int, seconds: float = 5.0) -> list[int]:
    """Those that are still alive after that time."""
    until(lambda: not any(map(alive, pids)), seconds)
    return [pid for pid in pids if alive(pid)]
