"""A registry of its own for each test, and the search for what a test left behind."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Sandboxes
from tests.integration import playing
from tests.integration.playing import Result, Task
from tests.support.account import Account

# A shell that asks for nothing of the account's own: no login, no keys, and none of them is missed.
PLAIN: Mapping[str, Any] = {
    "agent": ["shell"],
    "grants": {"claude": False, "git": False, "ssh": False, "gh": False, "display": False},
}
RUNTIME = Path("/run/claude-sandbox")
_GONE_SECONDS = 5.0


class Arena:
    """A registry, a project, and the account that owns both sandboxes and project."""

    # What every sandbox of it is asked for beside the rest.
    settings: Mapping[str, Any] = {}
    # Of the moments at which something can happen to it, each so manieth is tried.
    stride = 1

    def __init__(self, account: Account, state_dir: Path, project: Path) -> None:
        self.account = account
        self.state_dir = state_dir
        self.project = project
        # An account may get the number of one that left something.
        self._before = frozenset(self._runtime())

    @property
    def engine(self) -> Sandboxes:
        """The engine on this registry, to look at what the modules did."""
        return Sandboxes(state_dir=str(self.state_dir))

    def task(self, module: str = "claude_sandbox", *, check: bool = False, **args: Any) -> Task:
        """A task on this registry."""
        return playing.task(module, check=check, state_dir=str(self.state_dir), **args)

    def started(self, name: str = "box", *, check: bool = False, **args: Any) -> Task:
        """A task that wants a plain sandbox of this project."""
        return self.task(check=check, name=name, **{**self._plain(), **args})

    def quartet(self, name: str = "box", **args: Any) -> list[Task]:
        """The four tasks on a sandbox of this registry, which is a plain one where it is to run."""
        given = args if "state" in args and "project_dir" not in args else self._plain()
        return playing.quartet("claude_sandbox", name=name, state_dir=str(self.state_dir), **{**given, **args})

    def _plain(self) -> dict[str, Any]:
        return {"project_dir": str(self.project), **PLAIN, **self.settings}

    def inside(self, *argv: str, name: str = "box", check: bool = False, **args: Any) -> Task:
        """A task that runs a command in a sandbox."""
        return self.task("claude_sandbox_exec", check=check, name=name, argv=list(argv), **args)

    def play(self, *tasks: Task, **how: Any) -> list[Result]:
        """Run tasks; the result of each."""
        return playing.play(tasks, **how).results

    def new_project(self, name: str) -> Path:
        """Another project of the same account."""
        path = self.project.parent / name
        path.mkdir()
        self.account.own(path)
        return path

    def folder(self, name: str = "box") -> Path:
        """Where a sandbox is recorded."""
        return self.state_dir / "sandboxes" / name

    def pids(self, name: str = "box") -> dict[str, int]:
        """The pids of all that was started for a sandbox."""
        record = self.engine.registry.get(name)
        assert record is not None
        assert record.instance is not None
        found = record.instance
        pids = {"server": found.server.pid, "pane": found.pane.pid, "init": found.init.pid}
        return pids | ({"xvfb": found.xvfb.pid} if found.xvfb else {})

    def left_behind(self) -> list[str]:
        """What there still is of processes, sockets, mounts and drafts."""
        found = [f"process {pid}: {words}" for pid, words in self.processes()]
        found += [path for path in self._runtime() if path not in self._before]
        found += [str(path) for path in _entries(self.state_dir / "sandboxes") if path.name.startswith(".")]
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
        # A test may have mounted the registry itself.
        return found + [path for path in mounts if path.startswith((f"{self.state_dir}/", str(self.project)))]

    def _runtime(self) -> list[str]:
        # What a developer's own account has there may be from its own sandboxes.
        if os.geteuid() != 0:
            return []
        folders = (RUNTIME, Path("/tmp/.X11-unix"), Path("/tmp"))
        return [str(path) for folder in folders for path in _entries(folder) if self._is_runtime(folder, path)]

    def _is_runtime(self, folder: Path, path: Path) -> bool:
        if folder == Path("/tmp") and not path.name.startswith((".X", "claude-sandbox-")):
            return False
        with contextlib.suppress(FileNotFoundError):
            return path.lstat().st_uid == self.account.uid
        return False

    def processes(self) -> Iterator[tuple[int, str]]:
        """The pids and command lines of what runs for sandboxes of this registry."""
        for pid in self.account.processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if os.geteuid() == 0 or self._is_of_a_sandbox(pid, words):
                    yield pid, words

    def _is_of_a_sandbox(self, pid: int, words: str) -> bool:
        """Of all that a developer's own account runs: the terminal's server, and what that has started."""
        environ = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        return "tests.integration" not in words and (str(self.state_dir) in words or str(self.state_dir) in environ)

    def wait_for_processes(self, pids: Sequence[int], seconds: float = _GONE_SECONDS) -> None:
        """Wait until these processes are gone, or the time is over."""
        end = time.monotonic() + seconds
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                poller = select.poll()
                poller.register(descriptor, select.POLLIN)
                poller.poll(max(0.0, end - time.monotonic()) * 1000)
                os.close(descriptor)

    def wait_until_gone(self, words: str = "", seconds: float = _GONE_SECONDS) -> list[str]:
        """Wait until no process has these words, or the time is over; what there still is.

        What is ended together is not gone at once: one that was started last may be there for longer than the others.
        """
        end = time.monotonic() + seconds
        while (left := self._with_words(words)) and time.monotonic() < end:
            self.wait_for_processes(list(left), end - time.monotonic())
        return list(left.values())

    def _with_words(self, words: str) -> dict[int, str]:
        return {pid: line for pid, line in self.processes() if words in line}

    def end_processes(self) -> None:
        """Kill what is still there, lest the next test be blamed for it."""
        for pid, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in map(Path, self._runtime()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def clear(self) -> None:
        """Remove all sandboxes."""
        for record in self.engine.registry.records():
            if record.problem:
                shutil.rmtree(record.folder)
        for name, outcome in self.engine.ensure_all([], prune=True).items():
            assert not isinstance(outcome, SandboxError), f"{name}: {outcome}"


AnyArena = TypeVar("AnyArena", bound=Arena)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def arena_of(account: Account, name: str) -> contextlib.AbstractContextManager[Arena]:
    """A registry and a project for one test, which may leave sandboxes but nothing else."""
    return arena_of_kind(Arena, account, name)


@contextlib.contextmanager
def arena_of_kind(kind: type[AnyArena], account: Account, name: str) -> Iterator[AnyArena]:
    """An arena of that kind."""
    project = account.project(name)
    # Short, for a socket's path has to fit below it.
    arena = kind(account, Path(tempfile.mkdtemp(prefix="cst-")), project)
    try:
        yield arena
        arena.clear()
        arena.wait_until_gone()
        left = arena.left_behind()
    finally:
        arena.end_processes()
        shutil.rmtree(arena.state_dir)
    assert left == [], left
