"""A person with an account, a shell's environment and a terminal, who types claude-sandbox."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pexpect

from tests.support.account import Account
from tests.support.claude_home import claude_env
from tests.support.messages_api import MessagesApi

CLONE = Path(__file__).resolve().parents[2]
# What a terminal is told and does not show: colours, places of the cursor, titles, modes.
_UNSEEN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[=>78M])")
PATIENCE = 15.0
# The box in which Claude Code takes a prompt.
PROMPT = "❯"


def python() -> str:
    """One that another account may run, and new enough."""
    in_venv = sys.prefix != sys.base_prefix
    return "/usr/bin/python3" if in_venv or sys.executable.startswith("/root/") else sys.executable


def copied(folder: Path) -> Path:
    """The launcher and the engine where every account can read them; what PYTHONPATH has to name."""
    target = folder / "lib"
    for source in (CLONE / "cli/claude_launcher", CLONE / "plugins/module_utils/claude_sandbox"):
        shutil.copytree(source, target / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    # By whoever will run it: another Python would not take what this one has compiled.
    subprocess.run([python(), "-m", "compileall", "-q", target], check=True, timeout=120)
    return target


class Terminal:
    """A real terminal in which the launcher, or a shell that starts it, runs."""

    def __init__(self, child: pexpect.spawn[str]) -> None:
        self.child = child
        self.before = termios.tcgetattr(child.child_fd)

    @property
    def pid(self) -> int:
        assert self.child.pid is not None
        return self.child.pid

    def type(self, text: str) -> None:
        """As keys."""
        self.child.send(text)

    def line(self, text: str) -> None:
        """And Enter."""
        self.child.send(f"{text}\r")

    def see(self, *words: str, timeout: float = PATIENCE) -> str:
        """Wait until words are shown, one after the other; all that was shown meanwhile.

        Blanks do not count: a program that draws moves the cursor in place of writing them.
        """
        shown = ""
        for each in words:
            found, end = "", time.monotonic() + timeout
            while _solid(each) not in _solid(seen := _UNSEEN.sub("", found)):
                left = end - time.monotonic()
                assert left > 0, f"{each!r} was not shown, but: {seen[-2000:]!r}"
                try:
                    found += self.child.read_nonblocking(1, min(left, 1.0))
                except pexpect.TIMEOUT:
                    continue
                except pexpect.EOF:
                    raise AssertionError(f"{each!r} was not shown, but: {seen[-2000:]!r}") from None
            shown += seen
        return shown

    def interrupt(self) -> int:
        """Ctrl-C until it ends; its exit code."""
        for _time in range(6):
            self.type("\x03")
            try:
                self.child.expect(pexpect.EOF, timeout=0.7)
                break
            except pexpect.TIMEOUT:
                continue
        return self.code()

    def code(self, timeout: float = PATIENCE) -> int:
        """How it ends; 128 and the signal where one ended it."""
        self.rest(timeout)
        self.child.wait()
        code, number = self.child.exitstatus, self.child.signalstatus
        return code if code is not None else 128 + (number or 0)

    def rest(self, timeout: float = PATIENCE) -> str:
        """What is still shown, until it ends."""
        return _UNSEEN.sub("", self.raw_rest(timeout))

    def raw_rest(self, timeout: float = PATIENCE) -> str:
        """The same with what the terminal is told."""
        try:
            self.child.expect(pexpect.EOF, timeout=timeout)
        except pexpect.TIMEOUT:
            raise AssertionError(f"it goes on: {self.child.before!r}") from None
        return str(self.child.before or "")

    def attributes(self) -> list[Any]:
        """The terminal's settings: echo, whole lines, special characters."""
        return termios.tcgetattr(self.child.child_fd)

    def is_as_before(self) -> bool:
        """Whether they are what they were."""
        return self.attributes() == self.before

    def kill(self, number: int) -> None:
        """Send the launcher a signal."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """Take the terminal away, as a window that is closed does."""
        self.child.close(force=False)


class Person:
    """An account at a terminal, with a project."""

    def __init__(self, account: Account, library: Path, project: Path, api: MessagesApi) -> None:
        self.account = account
        self.project = project
        self.api = api
        self.library = library
        self.terminals: list[Terminal] = []
        self.environ = {
            "HOME": str(account.home),
            "USER": account.name,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(library),
            # The double, and nothing else.
            **{key: claude_env(api.url)[key] for key in ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY")},
        }

    @property
    def home(self) -> Path:
        return self.account.home

    @property
    def registry(self) -> Path:
        return self.home / ".local/state/claude-sandbox/sandboxes"

    def argv(self, *words: str) -> list[str]:
        """The command as this account can run it."""
        return [python(), "-m", "claude_launcher", *words]

    def run(
        self,
        *words: str,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
        argv: Sequence[str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The command with pipes in place of a terminal."""
        return subprocess.run(
            argv or self.argv(*words),
            input=stdin,
            env={**self.environ, **(env or {})},
            cwd=cwd or self.project,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=timeout,
            preexec_fn=self.become,
        )

    def terminal(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        argv: Sequence[str] | None = None,
        size: tuple[int, int] = (40, 120),
    ) -> Terminal:
        """The command in a terminal."""
        program, *arguments = argv or self.argv(*words)
        child = pexpect.spawn(
            program,
            arguments,
            env={**self.environ, **(env or {})},
            cwd=str(cwd or self.project),
            dimensions=size,
            encoding="utf-8",
            codec_errors="replace",
            timeout=PATIENCE,
            echo=True,
            preexec_fn=self._take_terminal,
        )
        child.delaybeforesend = None
        self.terminals.append(Terminal(child))
        return self.terminals[-1]

    def become(self) -> None:
        """Be the account, in a child."""
        os.setgroups([])
        os.setgid(self.account.gid)
        os.setuid(self.account.uid)

    def _take_terminal(self) -> None:
        # As whoever logs a person in does.
        os.fchown(0, self.account.uid, -1)
        self.become()

    def sandboxes(self) -> list[dict[str, Any]]:
        """What `list --json` says."""
        done = self.run("list", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def records(self) -> list[str]:
        """The names in the registry, drafts and graves too."""
        return sorted(os.listdir(self.registry)) if self.registry.exists() else []

    def processes(self) -> list[str]:
        """Pids and command lines of what the account runs."""
        return [f"{pid}: {_words(pid)}" for pid in self.account.processes()]

    def pid_of(self, *words: str) -> int:
        """The newest process of the account with these words in its command line."""
        found = [pid for pid in self.account.processes() if all(word in _words(pid) for word in words)]
        assert found, self.processes()
        return max(found)

    def leave(self) -> None:
        """End what a test has left."""
        for terminal in self.terminals:
            terminal.child.close(force=True)
        for pid in self.account.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.home / ".local/state", ignore_errors=True)
        shutil.rmtree(self.home / ".config", ignore_errors=True)


def _solid(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def soon(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value within some seconds, or the last."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return value
