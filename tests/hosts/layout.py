"""Where things lie, and what a running fleet tells about itself."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.hosts import cgroups

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache/hosts"
RELEASES = ("bookworm", "trixie")
# Every fleet has a network of its own, so all may have the same addresses.
BRIDGE = "br0"
BRIDGE_ADDRESS = "10.77.0.1"
NETWORK = "10.77.0.0/24"
PREFIX_LENGTH = 24
MAX_HOSTS = 200
PROXY_PORT = 3128
PROXY_URL = f"http://{BRIDGE_ADDRESS}:{PROXY_PORT}"
# What a supervisor says, once.
ALREADY_UP = "up already"
ANSWERED = "answered"
SILENT = "silent"


@dataclasses.dataclass(frozen=True)
class Host:
    name: str
    release: str
    address: str


def hosts_of(count: int, releases: Sequence[str]) -> list[Host]:
    """The hosts of a fleet; the releases alternate."""
    return [
        Host(f"host{number}", releases[(number - 1) % len(releases)], f"10.77.0.{10 + number}")
        for number in range(1, count + 1)
    ]


@dataclasses.dataclass(frozen=True)
class State:
    """What its supervisor writes down before it begins; enough to find what it has left when it was killed."""

    pid: int
    sockets: str
    cgroup: str
    hosts: list[Host]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> State:
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**found, "hosts": [Host(**host) for host in found["hosts"]]})


class Folder:
    """A fleet's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "lock"
        self.state = path / "state.json"
        self.log = path / "log"
        self.key = path / "key"
        self.ssh = path / "ssh"
        self.ssh_config = path / "ssh_config"
        self.known_hosts = path / "known_hosts"
        self.inventory = path / "inventory.yml"

    def console(self, name: str) -> Path:
        """What the host's first process has printed."""
        return self.path / f"{name}.log"

    def ended(self, name: str) -> Path:
        """It exists when the host has ended, and says with which exit code."""
        return self.path / f"{name}.ended"

    def mount(self, name: str) -> Path:
        """Where the supervisor, and nobody else, sees the host's disk."""
        return self.path / name


@contextlib.contextmanager
def hold(lock: Path) -> Iterator[bool]:
    """Try to be the only one; whether that worked. The supervisor is for as long as it lives."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def clean(folder: Folder) -> None:
    """Remove what a fleet has left; none of its processes may run any more, and its disks must have been unmounted."""
    if folder.state.exists():
        state = State.load(folder.state)
        cgroups.remove(state.cgroup)
        shutil.rmtree(state.sockets, ignore_errors=True)
    shutil.rmtree(folder.path)
