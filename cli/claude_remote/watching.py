# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command watch: a directory here and one on the server kept the same, by Unison, without ever losing work.

What changed on one side goes to the other. What changed on both stays as it is on both, and is named. Nothing is ever
decided for the person: not by who was later, and not where one side deleted what the other changed.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from . import ssh
from .errors import CONNECTION, FAILED, OK, USAGE, RemoteError
from .looking import manager_of
from .manager import Manager
from .terminal import as_user
from .text import inert, out, say
from .transfer import Place, found_place, local_directory

_EVERY = "2"  # seconds between two looks, where no program tells of changes
_END_SECONDS = 10.0
_LONGEST_WAIT = 30.0
_INSTALL = "apt-get install unison, or brew install unison"
_SKIPPED_RULE = re.compile(r"  skipped: (.*) \((.*)\)")
_FAILED_RULE = re.compile(r"  failed: (.*)")
_ACT_RULE = re.compile(r"\[BGN\] (Copying|Updating file|Deleting) (.*)")
_EMPTIED = "completely emptied"
_LOST = ("Lost connection", "Connection closed", "Server unexpectedly closed", "Broken pipe")
_SKIPPED_CODE, _FAILED_CODE = 1, 2


class Report:
    """What Unison's lines mean, told once. conflicts: paths that differ on both sides now, and why."""

    def __init__(self, host: str, local: str) -> None:
        self.conflicts: dict[str, str] = {}
        self.fatal = ""
        self._host = host
        self._local = local
        self._seen: dict[str, str] = {}
        self._greeted = False

    def line(self, line: str) -> None:
        """Take one of them."""
        if line.startswith("Looking for changes"):
            self._seen = {}
        elif line.startswith("Sleeping for"):
            self.end()
        elif found := _SKIPPED_RULE.fullmatch(line):
            self._seen[found[1]] = found[2]
        elif found := _FAILED_RULE.fullmatch(line):
            say(f"failed: {inert(found[1])}")
        elif found := _ACT_RULE.fullmatch(line):
            self._act(found)
        elif _EMPTIED in line:
            self.fatal = _EMPTIED
        elif self.fatal == _EMPTIED:
            pass
        elif line.startswith(("Fatal error:", "Error:")):
            self.fatal = line
        elif self.fatal and line.strip() and len(self.fatal) < 500:
            self.fatal += f" {line.strip()}"

    def _act(self, found: re.Match[str]) -> None:
        word = {"Copying": "new", "Updating file": "changed", "Deleting": "deleted"}[found[1]]
        rest = found[2]
        # What is deleted here was deleted there.
        comes = rest.endswith((f" to {self._local}", f" from {self._local}"))
        path = rest.rpartition(" from ")[0]
        out(f"{'←' if comes else '→'} {self._host}  {word}: {inert(path or '.')}")

    def end(self) -> None:
        """A round is over: tell what has become a conflict, and what is none any more."""
        for path, why in self._seen.items():
            if path not in self.conflicts:
                say(f"CONFLICT, kept on both sides: {inert(path)} ({inert(why)})")
        for path in self.conflicts:
            if path not in self._seen:
                say(f"settled: {inert(path)}")
        if not self._greeted:
            self._greeted = True
            say(f"Both sides are the same{', but for the conflicts' if self._seen else ''}.")
        self.conflicts = dict(self._seen)


def watch(options: Any) -> int:
    """Keep a directory here and one on the server the same, until Ctrl-C."""
    if (options.settle is None) != (options.keep is None):
        raise RemoteError("--settle PATH and --keep local|remote belong together.", "Give both.", USAGE)
    local = local_directory(options.dir)
    if shutil.which("unison") is None:
        raise RemoteError("There is no unison here.", f"{_INSTALL}.", FAILED)
    manager = manager_of(options)
    place = found_place(manager, local, options.remote)
    monitored = _look_there(manager, place)
    report = Report(manager.target.host, os.path.realpath(local))
    once = options.once or options.settle is not None
    if not once:
        say(f"{inert(local)} and {inert(place.path)} on {manager.target.host} are kept the same until Ctrl-C.")
    flags = [*_chosen(options, local, place), *(() if once else ("-repeat", "watch" if monitored else _EVERY))]
    try:
        return _once(manager, local, place, flags, report) if once else _ever(manager, local, place, flags, report)
    except KeyboardInterrupt:
        return OK


def _chosen(options: Any, local: str, place: Place) -> list[str]:
    """What the options add to Unison's words."""
    flags = [word for pattern in options.ignore for word in ("-ignore", f"Name {_one_line(pattern)}")]
    if options.settle is not None:
        keep = local if options.keep == "local" else _root(place)
        # The other side's version is kept beside it, under a name that says so.
        flags += ["-path", _one_line(options.settle), "-prefer", keep, "-copyonconflict"]
    return flags


def _one_line(word: str) -> str:
    if not word.isprintable():
        raise RemoteError(f"{inert(word)} has a control character in it.", "Leave it out.", USAGE)
    return word


def _once(manager: Manager, local: str, place: Place, flags: Sequence[str], report: Report) -> int:
    code = _run(manager, local, place, flags, report)
    if code not in (OK, _SKIPPED_CODE, _FAILED_CODE):
        raise _failure(manager, report)
    report.end()
    return FAILED if code == _FAILED_CODE or report.conflicts else OK


def _ever(manager: Manager, local: str, place: Place, flags: Sequence[str], report: Report) -> int:
    """Again and again where the connection is lost. Raises RemoteError where waiting mends nothing."""
    wait = 1.0
    while True:
        since = time.monotonic()
        _run(manager, local, place, flags, report)
        if not any(each in report.fatal for each in _LOST):
            raise _failure(manager, report)
        say("The connection was lost. Trying again …")
        wait = 1.0 if time.monotonic() - since > _LONGEST_WAIT else min(2 * wait, _LONGEST_WAIT)
        time.sleep(wait)
        _reconnect(manager)


def _reconnect(manager: Manager) -> None:
    wait = 1.0
    while True:
        ssh.close(manager.target, manager.link.files)
        try:
            manager.link.open()
            return
        except RemoteError as error:
            if not ssh.may_pass(error):
                raise
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)


def _failure(manager: Manager, report: Report) -> RemoteError:
    if report.fatal == _EMPTIED:
        what = "One side has been completely emptied; nothing was deleted on the other."
        return RemoteError(what, "Put the files back; or, if it was meant, empty the other side, too.", FAILED)
    said = inert(report.fatal)[:500] or "Unison ended, and did not say why."
    if any(each in said for each in _LOST):
        return RemoteError(f"The connection to {manager.target.host} was lost.", "Try again.", CONNECTION)
    hint = ""
    if "lock" in said:
        hint = "If no other watch runs on the two directories, delete the files that it names (they hold no work)."
    return RemoteError(said, hint, FAILED)


def _run(manager: Manager, local: str, place: Place, flags: Sequence[str], report: Report) -> int:
    """Run Unison to its end, and return its exit code. Raises KeyboardInterrupt once it has ended."""
    report.fatal = ""
    process = subprocess.Popen(
        _words(manager, local, place, flags),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **_environment()},
        # Ctrl-C is for us: it is to end what it does first.
        start_new_session=True,
    )
    try:
        for line in process.stdout or ():
            # Its progress comes before a carriage return, in the same line.
            report.line(line.rstrip("\n").rpartition("\r")[2])
        return process.wait()
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _words(manager: Manager, local: str, place: Place, flags: Sequence[str]) -> list[str]:
    shell = ssh.write_shell(manager.target, manager.link.files)
    user = as_user(manager.link.facts.login, place.user, asks=False)
    there = ["-servercmd", shlex.join([*user, "unison"])] if user else []
    # Whole-replica deletions stop it: an unmounted disk is no wish to delete everything.
    fixed = ["-batch", "-dumbtty", "-color", "false", "-log=false", "-confirmbigdel=true", "-auto"]
    return ["unison", local, _root(place), "-sshcmd", shell, *there, *fixed, *flags]


def _root(place: Place) -> str:
    return f"ssh://{ssh.PLACE}/{place.path}"


def _environment() -> dict[str, str]:
    """The person's own settings are not for this Unison; nor is the machine's name, which changes with networks."""
    base = os.environ.get("XDG_STATE_HOME", "")
    base = base if base.startswith("/") else os.path.expanduser("~/.local/state")
    folder = os.path.join(base, "claude-remote", "unison")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return {"UNISON": folder, "UNISONLOCALHOSTNAME": _machine(f"{folder}/machine")}
    except OSError as error:
        raise RemoteError(f"{inert(folder)} cannot be used: {error.strerror}.", "Set XDG_STATE_HOME.", FAILED) from None


def _machine(path: str) -> str:
    """A name for this machine, the same for ever, that no other one has. Raises OSError."""
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(f"laptop-{secrets.token_hex(8)}")
    except FileExistsError:
        pass
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _look_there(manager: Manager, place: Place) -> bool:
    """Whether both sides have what tells Unison of changes. Raises RemoteError where the server has no Unison."""
    user = as_user(manager.link.facts.login, place.user, asks=False)
    script = "command -v unison >/dev/null || exit 3; command -v unison-fsmonitor >/dev/null || exit 4"
    done = subprocess.run(
        manager.link.run_argv(shlex.join([*user, "sh", "-c", script]), "-T"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode == 3:
        hint = f"ssh {manager.target.host} sudo apt-get install unison"
        raise RemoteError(f"{manager.target.host} has no unison.", hint, FAILED)
    if done.returncode not in (OK, 4):
        said = inert(done.stderr.strip().rpartition("\n")[2])[:300]
        lost = done.returncode == 255
        hint = "Try again." if lost else f"Log in as {place.user}, or let sudo change to it without a password."
        raise RemoteError(
            f"{manager.target.host}: {said or 'it cannot be asked'}", hint, CONNECTION if lost else FAILED
        )
    return done.returncode == OK and shutil.which("unison-fsmonitor") is not None
