# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""claude-remote list over a connection that is open, against `ssh host true` over the same one.

Both ends are this machine, so that no network hides what the programs themselves take.
"""

from __future__ import annotations

import contextlib
import glob
import http.client
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from . import manager, place
from .figure import Figure, in_turns, milliseconds, ratio, shown

LIMIT = 2
_ROUNDS = 40
_RECORDED = 10
_SECONDS = 30.0
_CLONE = pathlib.Path(__file__).resolve().parent.parent
_SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
"""
_SSH = """\
Host *
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking accept-new
  LogLevel ERROR
"""


def measure(where: place.Place) -> Figure:
    """The list of a few sandboxes, by a manager behind an sshd. Raises RuntimeError where it is not had."""
    folder = f"{where.folder}/remote"
    os.mkdir(folder, 0o755)
    # Root's manager answers another account by it alone; for a person's own, it could only lie in their home.
    token = secrets.token_urlsafe(32) if where.has_own_account else None
    if token is not None:
        _give_token(where, token)
    with (
        place.registry(f"{folder}/state") as sandboxes,
        _manager(folder, sandboxes.registry.state_dir, token) as port,
        _sshd(where, folder),
    ):
        manager.recorded(where, sandboxes, _RECORDED)
        # Its path has to be short.
        os.mkdir(f"{folder}/r", 0o700)
        environ = _environ(where, folder, port)
        ours = [sys.executable, "-m", "claude_remote", "list"]
        try:
            listed = _run(ours, environ)
            if listed.count("\nrecorded-") != _RECORDED:
                raise RuntimeError(f"the list is not what is recorded:\n{listed}")
            [control] = glob.glob(f"{folder}/r/claude-remote/*.ctl")
            floor = ["ssh", "-S", control, "-F", "/dev/null", "any", "true"]
            work = {
                "ssh true": lambda: milliseconds(lambda: _run(floor, environ)),
                "list": lambda: milliseconds(lambda: _run(ours, environ)),
                # What of it nobody could save.
                "python alone": lambda: milliseconds(lambda: _run([sys.executable, "-c", "pass"], environ)),
                "manager alone": lambda: milliseconds(lambda: _asked(port, token)),
            }
            samples = in_turns(_ROUNDS, work)
        finally:
            _run([sys.executable, "-m", "claude_remote", "disconnect"], environ)
    notes = (shown(samples), f"{_RECORDED} sandboxes, no network in between")
    return Figure("remote-list", ratio(samples["list"], samples["ssh true"]), LIMIT, notes)


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if done.returncode != 0:
        raise RuntimeError(f"{argv[:4]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def _asked(port: int, token: str | None) -> None:
    """Ask the manager without ssh, over a new connection, as each command has one."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)) as connection:
        connection.request(
            "GET", "/api/sandboxes", headers={} if token is None else {"Authorization": f"Bearer {token}"}
        )
        answer = connection.getresponse()
        answer.read()
    if answer.status != 200:
        raise RuntimeError(f"the manager answers with {answer.status}")


def _give_token(where: place.Place, token: str) -> None:
    """Put the token where claude-remote looks for it."""
    # sshd takes an account for locked that has no password, unless it has one that nothing matches.
    subprocess.run(["usermod", "-p", "*", where.owner.name], check=True)
    folder = where.new_folder("home/.config/claude-sandbox")
    for path in (f"{where.folder}/home/.config", folder):
        os.chown(path, where.owner.uid, where.owner.gid)
    descriptor = os.open(f"{folder}/token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(f"{token}\n")
        os.fchown(descriptor, where.owner.uid, where.owner.gid)


def _environ(where: place.Place, folder: str, port: int) -> dict[str, str]:
    home = os.path.expanduser("~")
    return {
        "HOME": home,
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": f"{_CLONE}/cli",
        "XDG_CONFIG_HOME": f"{folder}/none",
        "XDG_RUNTIME_DIR": f"{folder}/r",
        "CLAUDE_REMOTE_HOST": f"{where.owner.name}@127.0.0.1",
        "CLAUDE_REMOTE_PORT": str(port),
        "CLAUDE_REMOTE_SSH_OPTS": f"-F {folder}/ssh_config",
    }


@contextlib.contextmanager
def _manager(folder: str, state_dir: str, token: str | None) -> Iterator[int]:
    """The port of a manager; it has ended afterwards."""
    port = _free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": os.path.expanduser("~"),
        "PYTHONPATH": f"{_CLONE}:{_CLONE}/plugins/module_utils",
        "MANAGER_LISTEN": f"127.0.0.1:{port}",
        "MANAGER_STATE_DIR": state_dir,
    }
    if token is not None:
        environ["MANAGER_TOKEN_FILE"] = f"{folder}/manager-token"
        with open(os.open(environ["MANAGER_TOKEN_FILE"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token)
    with _process([sys.executable, "-m", "manager_app"], environ, f"{folder}/manager.log", port):
        yield port


@contextlib.contextmanager
def _sshd(where: place.Place, folder: str) -> Iterator[None]:
    """An sshd that lets the owner of the sandboxes in; it has ended afterwards."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("there is no sshd: apt-get install openssh-server")
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{name}"], check=True)
    port = _free_port()
    for name, content in (("sshd_config", _SSHD), ("ssh_config", _SSH)):
        pathlib.Path(f"{folder}/{name}").write_text(content.format(port=port, folder=folder))
    if where.has_own_account:
        os.makedirs("/run/sshd", exist_ok=True)
    words = [program, "-D", "-e", "-f", f"{folder}/sshd_config"]
    with _process(words, dict(os.environ), f"{folder}/sshd.log", port):
        yield


@contextlib.contextmanager
def _process(words: Sequence[str], environ: Mapping[str, str], log: str, port: int) -> Iterator[None]:
    """A server that takes connections; it has ended afterwards."""
    with open(log, "wb") as file:
        process = subprocess.Popen(words, env=environ, cwd="/", stdout=file, stderr=file)
    try:
        end = time.monotonic() + _SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(
                    f"{words[0]} did not come up:\n{pathlib.Path(log).read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
