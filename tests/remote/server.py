# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A server with an sshd of its own, and a laptop in a network of its own, from which only that sshd can be reached."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pexpect

from tests.support.account import Account

ROOT = Path(__file__).parents[2]
NSENTER = shutil.which("nsenter") or "nsenter"
_SECONDS = 60.0
_READY_SECONDS = 10.0
_CONFIG = """\
Port 22
ListenAddress {address}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/laptop_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
SetEnv PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
Subsystem sftp internal-sftp
{more}
"""


class Laptop:
    """Runs claude-remote in a network of its own, with a home of its own; `folder` has both."""

    def __init__(self, folder: Path, pid: int, login: str, port: int) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(mode=0o700)
        self._pid = pid
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        self.environ = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "PYTHONPATH": str(ROOT / "cli"),
            "XDG_RUNTIME_DIR": str(runtime),
            "CLAUDE_REMOTE_HOST": login,
            "CLAUDE_REMOTE_PORT": str(port),
            "CLAUDE_REMOTE_SSH_OPTS": f"-F {folder}/ssh_config",
        }

    def argv(self, *words: str) -> list[str]:
        """What runs it."""
        return [NSENTER, f"--net=/proc/{self._pid}/ns/net", sys.executable, "-m", "claude_remote", *words]

    def run(self, *words: str, environ: dict[str, str] | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end, without a terminal."""
        more.setdefault("cwd", self.home)
        if "input" not in more:
            more["stdin"] = subprocess.DEVNULL
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.argv(*words),
            env={**self.environ, **(environ or {})},
            encoding="utf-8",
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            **more,
        )
        return done

    def spawn(self, *words: str, environ: dict[str, str] | None = None, **more: Any) -> Any:
        """Run it in a terminal of its own."""
        program, *arguments = self.argv(*words)
        return pexpect.spawn(
            program,
            arguments,
            env={**self.environ, **(environ or {})},
            cwd=str(self.home),
            encoding="utf-8",
            timeout=20,
            dimensions=(40, 120),
            **more,
        )

    def net(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another program in the laptop's network."""
        argv = [NSENTER, f"--net=/proc/{self._pid}/ns/net", *words]
        return subprocess.run(argv, encoding="utf-8", capture_output=True, check=True, timeout=_SECONDS)

    def runtime(self) -> Path:
        """Where it keeps its connections."""
        return Path(self.environ["XDG_RUNTIME_DIR"]) / "claude-remote"


class Server:
    """The sshd. `bin` is first on the PATH of whoever logs in."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("host_key", "laptop_key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "laptop_key.pub").chmod(0o644)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, more: str = "") -> None:
        """Start it, with more lines in its configuration, and wait until it takes connections."""
        config = self.folder / "sshd_config"
        config.write_text(_CONFIG.format(address=self.address, folder=self.folder, more=more))
        Path("/run/sshd").mkdir(exist_ok=True)
        with open(self.folder / "sshd.log", "ab") as log:
            self._process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=log, stdout=log)
        words = ["ssh-keyscan", "-T", "1", self.address]
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end:
            if subprocess.run(words, capture_output=True, check=False).stdout:
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def cut(self) -> None:
        """End all connections; new ones are taken."""
        assert self._process is not None
        for pid in reversed(below(self._process.pid)):
            if b"sshd" in _command(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End it, and all connections."""
        if self._process is not None:
            self.cut()
            self._process.terminate()
            self._process.wait(_READY_SECONDS)
            self._process = None

    def again(self, more: str = "") -> None:
        """Start it anew with other lines."""
        self.stop()
        self.start(more)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def below(pid: int) -> list[int]:
    """The processes that it started, and those that they did."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            children = [int(word) for word in (task / "children").read_text().split()]
            found += [each for child in children for each in (child, *below(child))]
    return found


@contextlib.contextmanager
def network() -> Iterator[tuple[int, str, str]]:
    """A network with one cable to this machine: the pid that holds it, this machine's address, and the cable's name."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    number, name = random.randrange(1, 250), f"crt{os.getpid()}"  # noqa: S311 - it keeps no secret
    here, there = f"10.77.{number}.1", f"10.77.{number}.2"
    try:
        _wait_for_network(holder.pid)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        _ip("addr", "add", f"{here}/30", "dev", name)
        _ip("link", "set", name, "up")
        inside = [NSENTER, f"--net=/proc/{holder.pid}/ns/net"]
        for words in (("addr", "add", f"{there}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            subprocess.run([*inside, "ip", *words], check=True)
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        yield holder.pid, here, name
    finally:
        holder.kill()
        holder.wait()
        # It goes with the network, but not at once.
        subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL, check=False)


def _wait_for_network(pid: int) -> None:
    own = os.readlink("/proc/self/ns/net")
    end = time.monotonic() + _READY_SECONDS
    while os.readlink(f"/proc/{pid}/ns/net") == own:
        assert time.monotonic() < end
        time.sleep(0.01)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def serving_ssh(address: str) -> Iterator[Server]:
    """An sshd at an address of this machine, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="crt-sshd-"))
    folder.chmod(0o755)
    server = Server(folder, address)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@contextlib.contextmanager
def laptop(server: Server, holder: int, login: str, port: int) -> Iterator[Laptop]:
    """A laptop that knows the server's key and has one that the server takes; its connections are closed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="crt-"))
    made = Laptop(folder, holder, f"{login}@{server.address}", port)
    key = (server.folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"{server.address} {key}")
    shutil.copy(server.folder / "laptop_key", folder / "key")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
        "  StrictHostKeyChecking yes\n  GlobalKnownHostsFile /dev/null\n"
    )
    try:
        yield made
    finally:
        _close(made)
        shutil.rmtree(folder)


def _close(made: Laptop) -> None:
    for control in made.runtime().glob("*.ctl"):
        words: Sequence[str] = ["ssh", "-S", str(control), "-O", "exit", "any"]
        subprocess.run(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)


def let_in(account: Account) -> None:
    """Have an account of a test be one that sshd does not take for locked; it still has no password."""
    subprocess.run(["usermod", "-p", "*", account.name], check=True)
