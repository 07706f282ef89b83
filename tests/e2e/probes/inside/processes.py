"""Attempts at other processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from .attempt import attempt, call, contents, outcome, pids, syscall

_PTRACE_ATTACH, _PTRACE_DETACH, _PTRACE_SEIZE = 16, 17, 0x4206
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438


@attempt
def status() -> dict[str, str]:
    """What the kernel says of this process' rights."""
    lines = (line.partition(":") for line in contents("/proc/self/status").splitlines())
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid")
    return {name: value.strip() for name, _, value in lines if name in names}


@attempt
def descriptors() -> dict[str, str]:
    """The open descriptors above 2 that were inherited, and where they lead."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            # The one for the listing itself is closed by now.
            if int(name) > 2:
                found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


@attempt
def environment() -> dict[str, str]:
    """The variables here."""
    return dict(os.environ)


@attempt
def processes_with(pieces: Sequence[Sequence[str]]) -> list[str]:
    """The texts that stand in a command line or an environment somewhere.

    They come in pieces, so that no command line holds one only because it was asked for.
    """
    texts, found = ["".join(piece) for piece in pieces], set()
    for pid in pids():
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                content = contents(f"/proc/{pid}/{name}")
                found |= {text for text in texts if text in content}
    return sorted(found)


@attempt
def by_way_of_processes(paths: Sequence[str]) -> dict[str, str]:
    """What can be read of files through the roots, directories and descriptors of all processes here."""
    found = {}
    for pid in pids():
        ways = [f"/proc/{pid}/root", f"/proc/{pid}/cwd/../../../../../../.."]
        for number in _listed(f"/proc/{pid}/fd"):
            ways.append(f"/proc/{pid}/fd/{number}/../../../../..")
            with contextlib.suppress(OSError):
                # A terminal would wait, or lose what it holds.
                if os.path.isfile(f"/proc/{pid}/fd/{number}"):
                    found[f"/proc/{pid}/fd/{number}"] = contents(f"/proc/{pid}/fd/{number}")
        for way in ways:
            for path in paths:
                with contextlib.suppress(OSError):
                    found[path] = contents(way + path)
    return found


@attempt
def attack(pid: int, address: int, text: str) -> dict[str, str]:
    """Trace a process, write to its memory, signal it, take its descriptors."""
    data = ctypes.create_string_buffer(text.encode())

    class Span(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    mine, theirs = Span(ctypes.addressof(data), len(data)), Span(address, len(data))

    def write_memory() -> None:
        call("process_vm_writev", pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)

    def write_mem_file() -> None:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(address)
            memory.write(text.encode())

    def take_descriptor() -> None:
        syscall(_PIDFD_GETFD, syscall(_PIDFD_OPEN, pid, 0), 0, 0)

    def trace() -> None:
        call("ptrace", _PTRACE_ATTACH, pid, None, None)
        os.waitpid(pid, 0)
        call("ptrace", _PTRACE_DETACH, pid, None, None)
        # What it stopped for may have been the signal above: the one to stop is then still to come.
        os.kill(pid, signal.SIGCONT)

    return {
        "memory": outcome(write_memory),
        "mem file": outcome(write_mem_file),
        "signal": outcome(lambda: os.kill(pid, signal.SIGUSR1)),
        "descriptor": outcome(take_descriptor),
        "trace": outcome(trace),
    }


@attempt
def run(argv: Sequence[str]) -> str:
    """What a program prints."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except OSError as error:
        return str(error)
    return done.stdout.strip()


@attempt
def watch_who_comes(seconds: float, ready: str, paths: Sequence[str]) -> dict[str, Any]:
    """Look at each process as soon as it appears, as one does who waits for somebody to enter the sandbox.

    Returns how many came, and what was got out of them: files outside, their program, their memory, tracing.
    """
    with open(ready, "w", encoding="ascii"):
        pass
    known = set(pids())
    came: set[int] = set()
    got: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pid in set(pids()) - known - came:
            came.add(pid)
            got |= _taken_from(pid, paths)
    return {"came": len(came), "got": sorted(got)}


def _taken_from(pid: int, paths: Sequence[str]) -> set[str]:
    got = set()
    for _ in range(200):
        try:
            program = os.readlink(f"/proc/{pid}/exe")
        except PermissionError:
            # Still on its way in, with rights that this one has not: try on until it is ours.
            continue
        except OSError:
            break
        if not os.path.exists(program):
            got.add(f"program {program}")
        for number in _listed(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{number}")
                if target.startswith("/") and not os.path.exists(target):
                    got.add(f"descriptor {target}")
        for path in paths:
            with contextlib.suppress(OSError):
                contents(f"/proc/{pid}/root{path}")
                got.add(f"file {path}")
        break
    return got


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
