# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Processes: known by pid and start time, signalled without a race, forked under another account."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .errors import ConflictError, SandboxError
from .host import Account

_CODECS = ("ascii", "latin-1", "utf-16-le")
_TICKS = os.sysconf("SC_CLK_TCK")
# What pidfd_open says, by Linux' version, of a process that is being reaped and of a pid that is now another's thread.
_NO_PROCESS = (errno.ESRCH, errno.ENOENT, errno.EINVAL)


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for another one that got its pid later.

    start: ticks of the clock since boot, field 22 of /proc/PID/stat.
    """

    pid: int
    start: int

    def alive(self) -> bool:
        """Whether it still runs; one that waits to be reaped does not."""
        return _start_if_alive(self.pid) == self.start

    def signal(self, number: int) -> None:
        """Send a signal; nothing where the process is gone."""
        with contextlib.suppress(ProcessLookupError), self._pidfd() as descriptor:
            signal.pidfd_send_signal(descriptor, number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that time."""
        try:
            with self._pidfd() as descriptor:
                poller = select.poll()
                poller.register(descriptor, select.POLLIN)
                return bool(poller.poll(seconds * 1000))
        except ProcessLookupError:
            return True

    def end(self, grace: float) -> None:
        """Ask it to end; make it, when it has not done so after `grace` seconds."""
        self.signal(signal.SIGTERM)
        if not self.wait(grace):
            self.signal(signal.SIGKILL)
            self.wait(5)

    @contextlib.contextmanager
    def _pidfd(self) -> Iterator[int]:
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError as error:
            if error.errno in _NO_PROCESS:
                raise ProcessLookupError(self.pid) from error
            raise
        try:
            # The descriptor holds on to whoever has the pid now: look only afterwards who that is.
            if not self.alive():
                raise ProcessLookupError(self.pid)
            yield descriptor
        finally:
            os.close(descriptor)


def until_one_ends(processes: Iterable[Process]) -> None:
    """Wait until one of the processes has ended."""
    with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as held:
        poller = select.poll()
        for each in processes:
            poller.register(held.enter_context(each._pidfd()), select.POLLIN)
        poller.poll()


def _stat(pid: int | str) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on (the second may hold anything)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def _start_if_alive(pid: int) -> int | None:
    try:
        fields = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def identify(pid: int) -> Process | None:
    """The process that has this pid now, or None."""
    start = _start_if_alive(pid)
    return None if start is None else Process(pid, start)


def children(pid: int) -> list[Process]:
    """The children of a process' main thread."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            pids = [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for child in map(identify, pids) if child is not None]


def descendants(pid: int) -> Iterator[Process]:
    """All processes below one, by the children of their main threads."""
    for child in children(pid):
        yield child
        yield from descendants(child.pid)


def uids(pid: int) -> set[int] | None:
    """The uids of a process: real, effective, saved, and of the file system; None when it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            words = next(line.split()[1:] for line in file if line.startswith(b"Uid:"))
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return None
    return {int(word) for word in words}


def command_name(pid: int) -> str | None:
    """The name the kernel shows for a process (15 bytes at most), or None when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return None


def innermost_pid(pid: int) -> int | None:
    """The pid that a process has in its own pid namespace, or None when it is gone."""
    pids = _pids(pid)
    return pids[-1] if pids else None


def depth(pid: int) -> int:
    """In how many pid namespaces a process is, from ours on; 0 when it is gone."""
    return len(_pids(pid))


def _pids(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            line = next((line for line in file if line.startswith("NSpid:")), f"NSpid: {pid}")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in line.split()[1:]]


def every_pid() -> Iterator[int]:
    """The pids of this machine."""
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def with_arguments(pairs: Iterable[tuple[str, str]], uid: int) -> list[Process]:
    """The processes of an account that were started with one of these `option value` pairs in their argv."""
    wanted = [f"\0{option}\0{value}\0".encode() for option, value in pairs]
    return _holding(uid, "cmdline", lambda words: any(pair in words for pair in wanted))


def with_word(word: str, uid: int) -> list[Process]:
    """The processes of an account that have this word in their argv."""
    return _holding(uid, "cmdline", lambda words: f"\0{word}\0".encode() in words)


def with_variable(name: str, value: str, uid: int) -> list[Process]:
    """The processes of an account that were started with this variable in their environment."""
    wanted = f"\0{name}={value}\0".encode()
    return _holding(uid, "environ", lambda words: wanted in b"\0" + words)


def _holding(uid: int, file_name: str, fits: Callable[[bytes], bool]) -> list[Process]:
    """The processes of an account whose file of this name under /proc/PID fits."""
    found = []
    for pid in every_pid():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if os.stat(f"/proc/{pid}").st_uid != uid:
                continue
            with open(f"/proc/{pid}/{file_name}", "rb") as file:
                if fits(file.read()):
                    found.append(identify(pid))
    return [process for process in found if process is not None]


def argument_after(pid: int, option: str) -> str | None:
    """What follows an option in a process' argv, or None."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return None
    return os.fsdecode(words[words.index(option.encode()) + 1]) if option.encode() in words[:-1] else None


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a group of processes uses: CPU seconds so far, resident bytes now, how many they are."""

    cpu_seconds: float
    memory_bytes: int
    processes: int


def usages(pids: Iterable[int]) -> dict[int, Usage]:
    """What each of some processes uses, with all that descend from it, in one look at the machine; starts no process.

    Shared pages count once for each process that has them (rss), so memory is an upper bound. Who is gone uses nothing.
    """
    below: dict[int, list[int]] = {}
    own: dict[int, tuple[int, int]] = {}
    for pid in every_pid():
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            own[pid] = sum(int(field) for field in fields[11:15]), int(fields[21])
            below.setdefault(int(fields[1]), []).append(pid)
    return {pid: _sum(pid, own, below) for pid in pids}


def _sum(pid: int, own: Mapping[int, tuple[int, int]], below: Mapping[int, list[int]]) -> Usage:
    ticks = pages = count = 0
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        if each in own:
            ticks, pages, count = ticks + own[each][0], pages + own[each][1], count + 1
            waiting += below.get(each, ())
    return Usage(ticks / _TICKS, pages * os.sysconf("SC_PAGE_SIZE"), count)


def until(condition: Callable[[], Any], seconds: float, step: float = 0.001) -> Any:
    """The first true value of `condition`, asked again and again; else its last value, after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() >= end:
            return value
        time.sleep(step)


@dataclasses.dataclass(frozen=True)
class Forked:
    """A forked child that works for us and answers with one JSON value."""

    pid: int
    answer: int

    def result(self) -> Any:
        """What the function returned; its SandboxError raised again here."""
        with open(self.answer, encoding="utf-8") as pipe:
            text = pipe.read()
        status = os.waitpid(self.pid, 0)[1]
        if not text:
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "itself"
            raise SandboxError(
                f"The process that worked on this was ended by {how} before it was through.",
                "Look in the kernel's log whether the host ran out of memory, then try again.",
            )
        reply = json.loads(text)
        if "what" in reply:
            raise (ConflictError if reply["conflict"] else SandboxError)(reply["what"], reply["hint"])
        if "crash" in reply:
            raise RuntimeError(reply["crash"])
        return reply["value"]


def fork(account: Account | None, function: Callable[[], Any]) -> Forked:
    """Run a function in a child, for good under `account` where one is given; its value must be JSON's."""
    if account is not None:
        # Python loads a codec at its first use, from where the account may not be able to read.
        for codec in _CODECS:
            codecs.lookup(codec)
        # And this, for what must not happen.
        import traceback  # noqa: F401
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return Forked(pid, read_end)
    # Here no exception may climb into the parent's code, and no cleanup of the parent's may run.
    try:
        os.close(read_end)
        with open(write_end, "w", encoding="utf-8") as pipe:
            pipe.write(_reply(account, function))
    finally:
        os._exit(0)


def _reply(account: Account | None, function: Callable[[], Any]) -> str:
    try:
        if account is not None:
            become(account)
        return json.dumps({"value": function()})
    except SandboxError as error:
        return json.dumps({"what": error.what, "hint": error.hint, "conflict": isinstance(error, ConflictError)})
    except BaseException:  # noqa: BLE001 - whatever it was, the parent has to hear of it
        import traceback

        return json.dumps({"crash": traceback.format_exc()})


def become(account: Account) -> None:
    """Turn this process into one of the account's, with no way back."""
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    os.umask(0o077)
    os.chdir("/")


def in_parallel(workers: int, functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """The functions' values in order, worked out by up to `workers` forks at a time.

    A function's SandboxError stands in its place, so that the others' results are not lost.
    """
    results: list[Any] = [None] * len(functions)
    running: dict[int, tuple[int, Forked]] = {}
    for number, function in enumerate(functions):
        if len(running) >= max(1, workers):
            _reap(running, results)
        forked = fork(None, function)
        running[forked.answer] = (number, forked)
    while running:
        _reap(running, results)
    return results


def _reap(running: dict[int, tuple[int, Forked]], results: list[Any]) -> None:
    """Take the results of those that have begun to answer: that is the last thing they do."""
    for answer in select.select(list(running), [], [])[0]:
        number, forked = running.pop(answer)
        results[number] = _outcome(forked)


def _outcome(forked: Forked) -> Any:
    try:
        return forked.result()
    except SandboxError as error:
        return error
