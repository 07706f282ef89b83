"""What the probes are about: an account with secrets, a host with canaries, an engine that makes sandboxes there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socketserver
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.support.account import Account, unprivileged_account
from tests.support.listener import AbstractCanary, Canary, TcpCanary, UdpCanary, has_ipv6

from .engine import ENGINE, Engine

HERE = Path(__file__).parent
PYTHON = "/usr/bin/python3"
HELPER = "/usr/local/libexec/claude-sandbox/container-helper"
ROOT = (0, 0)
OTHER = (65533, 65533)  # an account that no machine has

# Secrets of an account, none of which a sandbox gets.
SECRET_FILES = (
    ".aws/credentials",
    ".bash_history",
    ".config/chromium/Default/Cookies",
    ".config/gcloud/credentials.db",
    ".config/google-chrome/Default/Cookies",
    ".docker/config.json",
    ".git-credentials",
    ".gnupg/private-keys-v1.d/key",
    ".kube/config",
    ".local/share/keyrings/login.keyring",
    ".mozilla/firefox/profile/logins.json",
    ".netrc",
    ".password-store/mail.gpg",
    ".pypirc",
)
GRANTED_FILES = (".ssh/id_canary", ".gitconfig", ".config/gh/hosts.yml")
# By which the system is told what to do; each is planted where this machine has none.
SYSTEM_SOCKETS = {
    "system bus": "/run/dbus/system_bus_socket",
    "systemd": "/run/systemd/private",
    "journal": "/run/systemd/journal/stdout",
    "udev": "/run/udev/control",
    "machined": "/run/systemd/machine/io.systemd.Machine",
}
# Names that begin like something granted.
NEIGHBOURS = (".sshfoo/id_canary", ".gitconfig.old", ".config/gh-evil/hosts.yml", ".claude.evil/settings.json")
# What Claude Code obeys in ~/.claude, or starts, or has a shell read.
OBEYED = ("settings.json", "CLAUDE.md")
OBEYED_FOLDERS = ("agents", "commands", "hooks", "output-styles", "plugins", "rules", "skills")
STARTED = (
    "chrome/chrome-native-host",
    "daemon.json",
    "jobs/job.json",
    "keybindings.json",
    "local/claude",
    "loop.md",
    "remote-settings.json",
    "session-env/0/setup-hook-0.sh",
    "settings.local.json",
    "shell-snapshots/snapshot-bash-0.sh",
    "statusline-command.sh",
    "workflows/work.md",
)
# What would load a stranger's code into every program, or give away a secret, if it were passed on.
HOSTILE_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "BASH_ENV",
    "BUN_OPTIONS",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "ENV",
    "GIT_SSH_COMMAND",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NODE_OPTIONS",
    "NODE_EXTRA_CA_CERTS",
    "PERL5OPT",
    "PYTHONSTARTUP",
    "TMUX",
)


_Inet = TypeVar("_Inet", TcpCanary, UdpCanary)


class _Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        canary: Canary = self.server.canary  # type: ignore[attr-defined]
        canary.add()


class _PathServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


class PathCanary(Canary):
    """Counts connections to a UNIX socket at a path, open to everybody."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(_PathServer(path, _Greeter))
        os.chmod(path, 0o777)  # noqa: S103 - its permissions must not be what keeps a sandbox out


class Victim:
    """A process of the account on the host (victim.py)."""

    def __init__(self, account: Account, script: Path, text: str, name: str) -> None:
        self.key = secrets.randbelow(1 << 30) + 1
        self.name = name
        self._process = subprocess.Popen(
            [PYTHON, str(script), text, str(self.key), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            env={"CANARY": text},
            cwd="/",
        )

    def state(self) -> dict[str, Any]:
        """What has been done to it since it was asked last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        state: dict[str, Any] = json.loads(self._process.stdout.readline())
        return state

    def end(self) -> None:
        """Have it clean up and end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


class Stage:
    """Everything that is planted, under one name that occurs nowhere else."""

    def __init__(self, account: Account, held: contextlib.ExitStack) -> None:
        self.account = account
        self.token = f"canary-{secrets.token_hex(8)}"
        self.sibling_token = f"sibling-{secrets.token_hex(8)}"
        self.api_key = f"key-for-probes-{secrets.token_hex(20)}"
        self.home = account.home
        # An account may get the number of one that left something.
        self.machines_before = frozenset(machines_of(account.uid))
        self.ids = (account.uid, account.gid)
        self.state_dir = Path(tempfile.mkdtemp(prefix="cs-probe-"))
        held.callback(shutil.rmtree, self.state_dir, ignore_errors=True)
        self._held = held
        self._projects: dict[str, Path] = {}
        self._installed: str | None = None
        self.root_top = Path(tempfile.mkdtemp(prefix="cs-probe-", dir="/srv"))
        held.callback(shutil.rmtree, self.root_top, ignore_errors=True)
        self.code = self._copy_code()
        self._plant_home()
        self._plant_host()
        self.victim = Victim(account, self.code / "victim.py", self.token, self.token)
        held.callback(self.victim.end)
        self.sockets = self._plant_sockets()
        self.tcp = self._inet(TcpCanary)
        self.udp = self._inet(UdpCanary)
        self.abstract = [
            held.enter_context(AbstractCanary(name))
            for name in ("", f"/tmp/dbus-{self.token}", f"/tmp/.X11-unix/X{900 + secrets.randbelow(90)}")
        ]
        reader, self.descriptor = os.pipe()
        held.callback(os.close, reader)
        held.callback(os.close, self.descriptor)
        self.display = self._host_display()
        self.engine = held.enter_context(self.root_engine())
        self.own_engine = held.enter_context(self._own_engine())

    # Places

    def project(self, name: str, owner: str = "account") -> Path:
        """A project directory with the attempts in it; the same one for the same name."""
        if name not in self._projects:
            if owner == "root":
                path = self.root_top / name
                path.mkdir()
            else:
                path = self.account.project(name)
            shutil.copytree(HERE / "inside", path / ".probe/inside", ignore=shutil.ignore_patterns("__pycache__"))
            if owner != "root":
                self.account.own(path / ".probe")
                self.plant(Path(f"{path}-evil/file"))
            self._projects[name] = path
        return self._projects[name]

    def _copy_code(self) -> Path:
        """The attempts, the worker and the engine where every account can read them."""
        code = self.account.root / "code"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE / "inside", code / "inside", ignore=ignored)
        shutil.copytree(ENGINE / "claude_sandbox", code / "claude_sandbox", ignore=ignored)
        for name in ("victim.py", "worker.py"):
            shutil.copy(HERE / name, code)
        self.account.own(code)
        return code

    # Canaries

    def plant(self, path: Path, text: str = "", mode: int = 0o600, owner: tuple[int, int] | None = None) -> Path:
        """A file, and the folders on the way to it, that belong to the account unless told otherwise."""
        owner = owner or self.ids
        for folder in reversed([folder for folder in path.parents if not folder.exists()]):
            folder.mkdir(0o700)
            os.chown(folder, *owner)
        path.write_text(text or f"{self.token} {path}\n")
        os.chown(path, *owner)
        path.chmod(mode)
        return path

    def full_pipe(self) -> str:
        """A pipe with the API key in it, which its writer keeps open."""
        path = self.account.root / f"pipe-{secrets.token_hex(4)}"
        os.mkfifo(path, 0o600)
        os.chown(path, *self.ids)
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._held.callback(os.close, descriptor)
        os.write(descriptor, self.api_key.encode())
        return str(path)

    def _plant_home(self) -> None:
        for name in (*SECRET_FILES, *GRANTED_FILES, *NEIGHBOURS):
            self.plant(self.home / name)
        self.plant(self.home / ".claude/settings.json", "{}\n")
        self.plant(self.home / ".claude/CLAUDE.md", "be kind\n")
        for name in OBEYED_FOLDERS:
            self.plant(self.home / ".claude" / name / "own.md", "own\n")
        for name in STARTED:
            self.plant(self.home / ".claude" / name, "own\n", 0o700)
        self.plant(self.home / ".claude/projects/-other/session.jsonl", "{}\n")
        self.plant(self.home / ".claude/sessions/1.json", "{}\n")

    def _plant_host(self) -> None:
        self.root_secrets = [Path(f"{folder}/{self.token}") for folder in ("/root", "/etc", "/usr/local/share")]
        self.setuid = Path(f"/usr/local/share/{self.token}-id")
        self.system_file = Path(f"/usr/local/share/{self.token}-open")
        for path in (*self.root_secrets, self.setuid, self.system_file):
            self._held.callback(path.unlink, missing_ok=True)
        for path in self.root_secrets:
            self.plant(path, owner=ROOT)
        # The account's own: nothing but the mount keeps it from writing there.
        self.plant(self.system_file, mode=0o644)
        self.open_file = self.plant(self.account.root / "for-everybody", mode=0o644)
        shutil.copy("/usr/bin/id", self.setuid)
        self.setuid.chmod(0o4755)

    def _plant_sockets(self) -> dict[str, PathCanary]:
        """Sockets of the services that sandboxes have been left by, under the names that they have."""
        runtime = Path(f"/run/user/{self.account.uid}")
        if not runtime.exists():
            runtime.mkdir(parents=True)
            os.chown(runtime, *self.ids)
            self._held.callback(shutil.rmtree, runtime)
        tmux = Path(f"/tmp/tmux-{self.account.uid}")
        tmux.mkdir(0o700)
        os.chown(tmux, *self.ids)
        self._held.callback(shutil.rmtree, tmux)
        paths = {
            "dbus": runtime / "bus",
            "podman": runtime / "podman/podman.sock",
            "audio": runtime / "pulse/native",
            "pipewire": runtime / "pipewire-0",
            "wayland": runtime / "wayland-0",
            "keyring": runtime / "keyring/control",
            "gpg_agent": runtime / "gnupg/S.gpg-agent",
            "ssh_agent": runtime / "ssh-agent.socket",
            "docker": self.home / ".docker/run/docker.sock",
            "tmux": tmux / "default",
            "qmp": Path(f"/tmp/{self.token}-qmp.sock"),
            "libvirt": Path(f"/run/{self.token}-libvirt-sock"),
        }
        for name, path in (("docker system", "/run/docker.sock"), ("libvirt system", "/run/libvirt/libvirt-sock")):
            # Never in the place of a real one; without one, nothing would be there to be found.
            if not os.path.lexists(path) and os.path.isdir(os.path.dirname(path)):
                paths[name] = Path(path)
        system = {name: Path(path) for name, path in SYSTEM_SOCKETS.items() if not os.path.lexists(path)}
        found = {name: self._socket(path) for name, path in paths.items()}
        return found | {name: self._socket(path, ROOT, 0o755) for name, path in system.items()}

    def _socket(self, path: Path, owner: tuple[int, int] | None = None, mode: int = 0o700) -> PathCanary:
        for folder in reversed([folder for folder in path.parents if not folder.exists()]):
            folder.mkdir(mode)
            os.chown(folder, *(owner or self.ids))
            if owner:
                self._held.callback(folder.rmdir)
        self._held.callback(path.unlink, missing_ok=True)
        return self._held.enter_context(PathCanary(str(path)))

    def _inet(self, kind: Callable[[str], _Inet]) -> list[_Inet]:
        hosts = ["127.0.0.1", *(["::1"] if has_ipv6() else []), *_own_addresses()]
        return [self._held.enter_context(kind(host)) for host in hosts]

    def _host_display(self) -> dict[str, str]:
        """An X server of the account's own, as a desktop has it: its socket, and the file with its cookie."""
        cookie = self.home / ".Xauthority"
        cookie.write_bytes(b"\xff\xff\0\0\0\0\0\x12MIT-MAGIC-COOKIE-1\0\x10" + secrets.token_bytes(16))
        cookie.chmod(0o600)
        os.chown(cookie, *self.ids)
        number = start_display(self.account, str(cookie), self._held, f":{800 + secrets.randbelow(100)}")
        return {"path": f"/tmp/.X11-unix/X{number}", "cookie": str(cookie)}

    # Engines

    def install_for_accounts(self) -> str:
        """Let the account have containers made by sudo, as the role does; why not, if so."""
        if self._installed is None:
            self._installed = self._install_for_accounts()
        return self._installed

    def _install_for_accounts(self) -> str:
        if shutil.which("sudo") is None:
            return "sudo is not installed, without which an account has no container"
        if os.path.lexists(HELPER):
            return "this machine has a container-helper already, which need not run the engine that is tried here"
        code = f"import sys\nsys.path.insert(0, {str(ENGINE)!r})\nfrom claude_sandbox.helper import main\nmain()\n"
        rules = Path(f"/etc/sudoers.d/{self.account.name}")
        for folder in reversed([folder for folder in Path(HELPER).parents if not folder.exists()]):
            folder.mkdir(0o755)
            self._held.callback(folder.rmdir)
        for path, text, mode in (
            (Path(HELPER), f"#!{PYTHON} -I\n{code}", 0o755),
            (rules, f"{self.account.name} ALL=(root) NOPASSWD: {HELPER}\n", 0o440),
        ):
            self._held.callback(path.unlink)
            self.plant(path, text, mode, ROOT)
        return ""

    def remove_all(self) -> None:
        """Destroy every sandbox, by engines of its own: those of the tests may have ended."""
        for made in (self.root_engine, self._own_engine):
            with made() as engine:
                for name in engine.ask("names"):
                    engine.remove(name)

    def engine_by(self, python: Path, owner: str) -> Engine:
        """Another engine, run by a certain Python; its sandboxes are those of own_engine, or of root's."""
        return self._engine(str(python), self.state_dir) if owner == "root" else self._own_engine(str(python))

    def hostile_environment(self) -> dict[str, str]:
        """Variables that no sandbox may have."""
        return dict.fromkeys(HOSTILE_VARIABLES, f"/nonexistent/{self.token}")

    def root_engine(self) -> Engine:
        """The engine as root runs it: a role, a module, the manager."""
        return self._engine(sys.executable, self.state_dir)

    def _engine(self, python: str, state_dir: Path, **more: Any) -> Engine:
        os.set_inheritable(self.descriptor, True)
        return Engine(
            python,
            state_dir,
            keys={self.token: self.token},
            env=self.hostile_environment() | more.pop("env", {}),
            descriptor=self.descriptor,
            **more,
        )

    def _own_engine(self, python: str = "") -> Engine:
        """The engine as the account runs it for itself."""
        runtime = f"/run/user/{self.account.uid}"
        return self._engine(
            python or PYTHON,
            self.home / "own-state",
            env={
                "HOME": str(self.home),
                "XDG_RUNTIME_DIR": runtime,
                "SSH_AUTH_SOCK": f"{runtime}/ssh-agent.socket",
                "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
            },
            engine=self.code,
            script=self.code / "worker.py",
            account=self.ids,
        )

    def attempt_argv(self, name: str, given: Mapping[str, Any]) -> list[str]:
        """What makes an attempt, wherever it is."""
        return [PYTHON, "-m", "inside", name, json.dumps(given)]


def start_display(account: Account, cookie: str, held: contextlib.ExitStack, *number: str) -> str:
    """An X server of the account's as a desktop has it, on a free number unless one is given; its number."""
    reader, writer = os.pipe()
    argv = ["Xvfb", *number, "-displayfd", str(writer), "-auth", cookie, "-nolisten", "tcp", "-noreset"]
    server = subprocess.Popen(
        [*argv, "-screen", "0", "640x480x24", "-extension", "GLX"],
        pass_fds=(writer,),
        stderr=subprocess.DEVNULL,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        cwd="/",
    )
    held.callback(server.wait, 10)
    held.callback(server.terminate)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        return pipe.readline().strip()


def machines_of(uid: int) -> list[str]:
    """The containers that root remembers of an account."""
    found = []
    for path in Path("/run/claude-sandbox/machines").glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            if json.loads(path.read_text())["uid"] == uid:
                found.append(path.stem)
    return found


def _own_addresses() -> Sequence[str]:
    """This machine's address in the world outside, where it has one. No packet is sent."""
    import socket

    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return [str(probe.getsockname()[0])]
    return []


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value of a condition, or its last."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """A stage; afterwards every sandbox, process, file and mount of it is gone, or this fails."""
    with unprivileged_account() as account:
        with contextlib.ExitStack() as held:
            stage = Stage(account, held)
            try:
                yield stage
            finally:
                stage.remove_all()
        _assert_clean(stage)


def _assert_clean(stage: Stage) -> None:
    until(lambda: not stage.account.processes(), 3)
    assert stage.account.processes() == [], "processes of the account were left behind"
    mounts = Path("/proc/mounts").read_text()
    assert stage.token not in mounts
    assert stage.account.name not in mounts
    left_machines = set(machines_of(stage.account.uid)) - stage.machines_before
    assert left_machines == set(), "containers of the account were left behind"
    left = [path for path in (*stage.root_secrets, stage.setuid, stage.system_file) if path.exists()]
    assert left == []
    segments = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    assert [line for line in segments if int(line[7]) == stage.account.uid] == []
