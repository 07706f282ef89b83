"""Start a fleet, reach its hosts, end it."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fresh.fresh import FreshError
from tests.hosts import sources, trees
from tests.hosts.layout import (
    ALREADY_UP,
    ANSWERED,
    CHECKOUT,
    MAX_HOSTS,
    RELEASES,
    SILENT,
    Folder,
    Host,
    State,
    clean,
    hold,
)

_BOOT_SECONDS = 60.0
_END_SECONDS = 30.0
_NEEDED = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}


class FleetError(Exception):
    """Something that the person who runs this can act on."""


class Fleet:
    """A fleet that is up, by its directory."""

    def __init__(self, directory: Path, process: subprocess.Popen[str] | None = None) -> None:
        self._folder = Folder(directory)
        self._process = process
        self._hosts = {host.name: host for host in State.load(self._folder.state).hosts}

    @property
    def names(self) -> list[str]:
        """host1, host2, …"""
        return list(self._hosts)

    @property
    def inventory(self) -> Path:
        """For `ansible-playbook -i`; all are in the group sandbox_hosts."""
        return self._folder.inventory

    def release(self, name: str) -> str:
        """The name of its Debian."""
        return self._host(name).release

    def address(self, name: str) -> str:
        """Where the other hosts find it."""
        return self._host(name).address

    def console(self, name: str) -> str:
        """What its first process has printed."""
        console = self._folder.console(self._host(name).name)
        return console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""

    def ssh_argv(self, name: str, *options: str, user: str = "root") -> list[str]:
        """ssh to it; options of ssh, and behind these what it shall run there, may follow."""
        config = ["-F", str(self._folder.ssh_config), "-l", user, *options]
        return [str(self._folder.ssh), *config, self._host(name).name]

    def ssh(
        self,
        name: str,
        *argv: str,
        user: str = "root",
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        timeout: float = 300.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there; `timeout` is in seconds. Without input it reads nothing."""
        command = [*self.ssh_argv(name, user=user), "--", shlex.join(argv)]
        given = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=timeout, **given
        )

    def reboot(self, name: str) -> None:
        """Boot it again, and wait until it is up. Raises FleetError when it does not come up."""
        before = self._boot(name)
        if not before:
            raise FleetError(f"{name} does not answer")
        self.ssh(name, "systemctl", "reboot")
        end = time.monotonic() + _BOOT_SECONDS
        while self._boot(name) in ("", before):
            self._still_boots(name, end)
        self.wait(name)

    def _boot(self, name: str) -> str:
        """What tells one boot from another; empty when it does not answer."""
        options = ("-o", "ConnectTimeout=1", "-o", "ControlPath=none")
        command = [*self.ssh_argv(name, *options), "cat /proc/sys/kernel/random/boot_id"]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30
        ).stdout

    def _still_boots(self, name: str, end: float) -> None:
        ended = self._folder.ended(name)
        if ended.exists() or time.monotonic() > end:
            why = f"ended with {ended.read_text().strip()}" if ended.exists() else "does not come up"
            raise FleetError(f"{name} {why}; its console says:\n{self.console(name)[-3000:]}")
        time.sleep(0.05)

    def wait(self, name: str) -> None:
        """Until it has booted. Raises FleetError when it does not."""
        # Until this is over, PAM lets only root in.
        done = self.ssh(name, "systemctl", "is-system-running", "--wait", timeout=_BOOT_SECONDS)
        if done.stdout.strip() not in ("running", "degraded"):
            raise FleetError(f"{name} has not booted: {done.stdout}{done.stderr}\n{self.console(name)[-3000:]}")

    def stop(self) -> None:
        """Take all down; nothing stays. May be called again."""
        take_down(self._folder.path)
        if self._process is not None:
            _close(self._process)

    def _host(self, name: str) -> Host:
        return self._hosts[name]


def take_down(directory: Path) -> bool:
    """End the fleet in a directory and remove what it leaves; whether there was one."""
    folder = Folder(directory)
    if not folder.state.exists():
        return False
    with hold(folder.lock) as dead:
        if dead:
            clean(folder)
            return True
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        supervisor = os.pidfd_open(State.load(folder.state).pid)
        try:
            signal.pidfd_send_signal(supervisor, signal.SIGTERM)
            _wait_for(supervisor)
        finally:
            os.close(supervisor)
    if folder.state.exists():
        clean(folder)
    return True


def _wait_for(pidfd: int) -> None:
    """Until the process has ended; kill it when it does not."""
    if not select.select([pidfd], [], [], _END_SECONDS)[0]:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], _END_SECONDS)


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait(_END_SECONDS)


def _preflight(count: int, releases: Sequence[str]) -> None:
    if os.geteuid():
        raise FleetError("this makes mounts, networks and containers: run it as root")
    if not 1 <= count <= MAX_HOSTS:
        raise FleetError(f"there can be 1 to {MAX_HOSTS} hosts, not {count}")
    if not releases or set(releases) - set(RELEASES):
        raise FleetError(f"releases are {', '.join(RELEASES)}, not {', '.join(releases) or 'none'}")
    missing = sorted({package for program, package in _NEEDED.items() if not shutil.which(program)})
    if missing:
        raise FleetError(f"missing here: apt-get install {' '.join(missing)}")


def _make_trees(count: int, releases: Sequence[str]) -> None:
    mirrors = sources.mirrors()
    try:
        for release in dict.fromkeys(releases[:count]):
            trees.tree(release, mirrors)
    except FreshError as error:
        raise FleetError(str(error)) from error


def start(directory: Path, count: int, releases: Sequence[str], *, detached: bool) -> Fleet:
    """Start a fleet in a directory and wait until it is up. Unless detached, it ends with this process.

    Raises FleetError when there is one already, or it does not come up. One that died there is replaced.
    """
    _preflight(count, releases)
    _make_trees(count, releases)
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Folder(directory)
    with hold(folder.lock) as free:
        if not free:
            raise FleetError(f"the hosts in {directory} are up already")
        if folder.state.exists():
            clean(folder)
            directory.mkdir(mode=0o700)
    with folder.log.open("w+", encoding="utf-8") as log:
        process = _spawn(directory, count, releases, log.fileno(), detached=detached)
        assert process.stdout is not None
        word = process.stdout.readline().strip()
        if word == ALREADY_UP:
            _close(process)
            raise FleetError(f"the hosts in {directory} are up already")
        try:
            return _up(directory, process, word)
        except BaseException as error:
            take_down(directory)
            _close(process)
            if isinstance(error, FleetError):
                log.seek(0)
                raise FleetError(f"{error}\n{log.read()[-3000:]}") from error
            raise


def _up(directory: Path, process: subprocess.Popen[str], word: str) -> Fleet:
    if word not in (ANSWERED, SILENT):
        raise FleetError("the hosts could not be started; the log says:")
    made = Fleet(directory, process)
    if word != ANSWERED:
        consoles = "".join(f"\n{name}:\n{made.console(name)[-1000:]}" for name in made.names)
        raise FleetError(f"not all hosts came up.{consoles}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(made.wait, made.names))
    return made


def _spawn(directory: Path, count: int, releases: Sequence[str], log: int, *, detached: bool) -> subprocess.Popen[str]:
    outside = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    argv += [sys.executable, "-m", "tests.hosts.supervisor", "--directory", str(directory), "--count", str(count)]
    argv += ["--releases", *releases, "--outside", *map(str, outside), *(["--detached"] if detached else [])]
    try:
        return subprocess.Popen(
            argv,
            cwd=CHECKOUT,
            # It ends when this pipe does, and that does when this process ends, however it ends.
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            pass_fds=outside,
            start_new_session=True,
        )
    finally:
        for each in outside:
            os.close(each)


@contextlib.contextmanager
def fleet(count: int = 3, releases: Sequence[str] = RELEASES) -> Iterator[Fleet]:
    """Hosts that are up for as long as this lasts, and no longer than this process. Needs root."""
    directory = Path(tempfile.mkdtemp(prefix="csh-"))
    try:
        made = start(directory, count, releases, detached=False)
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
