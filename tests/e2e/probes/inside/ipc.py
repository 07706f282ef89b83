"""Attempts at what processes of one account share: memory, displays."""

from __future__ import annotations

import contextlib
import ctypes
import os

from .attempt import attempt, contents, libc
from .xclient import Client, RefusedError

_COOKIE_BYTES = 16


@attempt
def shared_memory(segment: int, key: int, name: str) -> dict[str, str]:
    """What stands in a System V segment, by its id and by its key, and in one of POSIX by its name."""
    libc.shmat.restype = ctypes.c_void_p
    found = {"id": _attached(segment), "key": _attached(libc.shmget(key, 0, 0))}
    with contextlib.suppress(OSError):
        found["posix"] = contents(f"/dev/shm/{name}")
    return found


def _attached(segment: int) -> str:
    address = libc.shmat(segment, None, 0) if segment >= 0 else None
    if address in (None, ctypes.c_void_p(-1).value):
        return ""
    return ctypes.string_at(address, 64).rstrip(b"\0").decode("latin-1")


@attempt
def shared_memory_by_display(segment: int, text: str, path: str = "", cookie: str = "") -> str:
    """Have the X server, which runs outside, attach a System V segment of the host's: what stands in it."""
    path = path or f"/tmp/.X11-unix/X{os.environ.get('DISPLAY', ':').lstrip(':')}"
    try:
        client = Client(path, _cookie(cookie or os.environ.get("XAUTHORITY", "")))
        return client.shared_memory(segment, text.encode()).rstrip(b"\0").decode("latin-1")
    except (OSError, RefusedError):
        return ""


@attempt
def display(path: str, cookie: str = "") -> bool:
    """Whether an X server lets us in; `cookie` is a file that holds one."""
    try:
        Client(path, _cookie(cookie))
    except (OSError, RefusedError):
        return False
    return True


def _cookie(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()[-_COOKIE_BYTES:]
    return b""
