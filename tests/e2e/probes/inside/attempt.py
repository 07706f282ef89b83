"""The attempts by name, and what most of them need."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

Attempt = Callable[..., Any]
ATTEMPTS: dict[str, Attempt] = {}

libc = ctypes.CDLL(None, use_errno=True)
LIMIT = 65536  # bytes that are read of anything


def attempt(function: Attempt) -> Attempt:
    """Have a function called by its name; its answer must be JSON's."""
    ATTEMPTS[function.__name__] = function
    return function


def outcome(action: Callable[..., object], *arguments: object) -> str:
    """`ok`, or the name of the error that the kernel gave."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


def call(name: str, *arguments: object) -> None:
    """A function of the C library that says -1 where it fails."""
    if getattr(libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def syscall(number: int, *arguments: object) -> int:
    """A system call by its number. Raises OSError."""
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def contents(path: str) -> str:
    """The beginning of a file, without waiting for a pipe's other end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, LIMIT).decode("latin-1")
    finally:
        os.close(descriptor)


def pids() -> list[int]:
    """The processes that /proc shows here."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
