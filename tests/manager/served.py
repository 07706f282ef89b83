"""A manager that really runs, in a process of its own, on a port of its own, over a registry of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from claude_sandbox.host import Host
from claude_sandbox.sandboxes import Request, Sandboxes
from tests.support.account import Account

ROOT = Path(__file__).parents[2]
# A shell that asks for nothing of the account's own.
PLAIN: Mapping[str, Any] = {
    "agent": ["shell"],
    "grants": {"claude": False, "git": False, "ssh": False, "gh": False, "display": False},
}
_READY_SECONDS = 30.0
_END_SECONDS = 20.0


class Served:
    """One manager at a time over the registry; it can be killed and started again."""

    def __init__(self, account: Account, folder: Path, environ: Mapping[str, str]) -> None:
        self.account = account
        self.folder = folder
        self.state_dir = folder / "state"
        self.port = _free_port()
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONPATH": f"{ROOT}:{ROOT}/plugins/module_utils",
            "MANAGER_LISTEN": f"127.0.0.1:{self.port}",
            "MANAGER_STATE_DIR": str(self.state_dir),
            **environ,
        }
        self.log = folder / "manager.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.web = requests.Session()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://localhost:{self.port}"

    @property
    def engine(self) -> Sandboxes:
        """The engine on the same registry, to do what a playbook would do beside the manager."""
        return Sandboxes(Host.this(), str(self.state_dir))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "manager_app"], env=self._environ, cwd="/", stderr=log, stdout=log
            )
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(requests.ConnectionError):
                if self.web.get(f"{self.url}/healthz", timeout=5).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"The manager did not start:\n{self.log.read_text()}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, wait, and return its exit code. SIGKILL hits all that it consists of."""
        assert self.process is not None
        processes = [self.process.pid, *_below(self.process.pid)] if number == signal.SIGKILL else [self.process.pid]
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        code = self.process.wait(_END_SECONDS)
        self.web.close()
        self.web = requests.Session()
        return code

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """A request as a program makes it."""
        return self.web.request(method, f"{self.url}{path}", timeout=60, allow_redirects=False, **more)

    def make(self, name: str = "box", **fields: Any) -> dict[str, Any]:
        """A plain sandbox, made through the API."""
        project = fields.pop("project_dir", None) or str(self.project(name))
        body = {"name": name, "project_dir": project, "user": self.account.name, **PLAIN, **fields}
        answer = self.call("POST", "/api/sandboxes", json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def project(self, name: str) -> Path:
        """A project of the account's."""
        path = self.account.root / f"{self.folder.name}-{name}"
        if not path.exists():
            path.mkdir()
            self.account.own(path)
        return path

    def lines(self) -> list[str]:
        """What it has logged so far."""
        return self.log.read_text().splitlines()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            children = [int(word) for word in (task / "children").read_text().split()]
            found += [each for child in children for each in (child, *_below(child))]
    return found


@contextlib.contextmanager
def serving(account: Account, **environ: str) -> Iterator[Served]:
    """A manager that runs as whoever runs the tests; in the end its sandboxes are removed, and it ends when told to."""
    folder = Path(tempfile.mkdtemp(prefix="cst-manager-"))
    folder.chmod(0o755)
    served = Served(account, folder, environ)
    try:
        served.start()
        yield served
    finally:
        try:
            if served.process is not None and served.process.poll() is None:
                assert served.end() == 0, served.log.read_text()
        finally:
            if served.process is not None and served.process.poll() is None:
                served.end(signal.SIGKILL)
            for name in served.engine.registry.names():
                served.engine.ensure(Request(name, "absent"))
            shutil.rmtree(folder)
