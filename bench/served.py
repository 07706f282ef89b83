# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A manager that runs for the bench, and a plain Flask app under the same server; each in processes of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import procs

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_READY_SECONDS = 30.0
_END_SECONDS = 20.0
_ANSWER_SECONDS = 60.0
_WORDS = 3000  # of a log
# The manager's own settings, so that what differs is the app alone. It runs by itself, as the manager does: there the
# engine has another name than here.
_PLAIN = """\
import os
import sys

from flask import Flask, Response

from manager_app import config, logs, server


class Plain(server.Server):
    def load_config(self):
        super().load_config()
        # This is for the manager's parts, which are not here.
        self.cfg.set("worker_exit", lambda server, worker: None)

    def load(self):
        with open(sys.argv[1], "rb") as file:
            content = file.read()
        app = Flask("plain")
        app.add_url_rule("/healthz", "health", lambda: "ok")
        app.add_url_rule("/content", "content", lambda: Response(content, content_type="application/json"))
        return app


logs.set_up()
Plain(config.from_environ(os.environ)).run()
"""


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that answers. pid: of its first process."""

    pid: int
    port: int


class Client:
    """One connection to a server, which is kept."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_ANSWER_SECONDS)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """The status and the content of an answer."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def get(self, path: str) -> bytes:
        """The content that is there; none where nothing has changed. Raises RuntimeError where it is not to be had."""
        status, content = self.call("GET", path)
        if status not in (200, 204):
            raise RuntimeError(f"{path}: {status} {content[:500].decode(errors='replace')}")
        return content

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextlib.contextmanager
def manager(folder: str, state_dir: str) -> Iterator[Server]:
    """A manager over a registry, which logs into the folder; it has ended afterwards."""
    with _running(["-m", "manager_app"], f"{folder}/manager.log", state_dir) as found:
        yield found


@contextlib.contextmanager
def plain(folder: str, content: str) -> Iterator[Server]:
    """A server that gives, at /content, the content of a file from its memory; it has ended afterwards."""
    with _running(["-c", _PLAIN, content], f"{folder}/plain.log", folder) as found:
        yield found


@contextlib.contextmanager
def connected(server: Server) -> Iterator[Client]:
    """A connection, closed afterwards."""
    with contextlib.closing(Client(server)) as client:
        yield client


@contextlib.contextmanager
def _running(arguments: Sequence[str], log: str, state_dir: str) -> Iterator[Server]:
    port = _free_port()
    # A token or names of whoever runs the bench are not for this one.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MANAGER_")}
    environ = {
        **kept,
        "PYTHONPATH": f"{_ROOT}:{_ROOT}/plugins/module_utils",
        "MANAGER_LISTEN": f"127.0.0.1:{port}",
        "MANAGER_STATE_DIR": state_dir,
    }
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, *arguments], env=environ, cwd="/", stdout=file, stderr=file)
    try:
        server = Server(process.pid, port)
        _wait(process, server, log)
        yield server
        _check(process, log)
    except OSError:
        # What broke may have been the server's end, and that is what is to be told of.
        _check(process, log)
        raise
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], server: Server, log: str) -> None:
    """Until it answers."""
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(ConnectionError), connected(server) as client:
            client.get("/healthz")
            return
        time.sleep(0.05)
    _check(process, log)
    raise RuntimeError(f"The server does not answer:\n{_last_words(log)}")


def _check(process: subprocess.Popen[bytes], log: str) -> None:
    code = process.poll()
    if code is not None:
        raise RuntimeError(f"The server ended by itself, with {code}:\n{_last_words(log)}")


def _last_words(log: str) -> str:
    return pathlib.Path(log).read_text(errors="replace")[-_WORDS:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it; what hangs is made to. What it has started besides its worker ends with that."""
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        for each in [*procs.descendants(process.pid)]:
            each.signal(signal.SIGKILL)
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
