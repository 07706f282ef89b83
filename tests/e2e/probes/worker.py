"""The engine in a process of its own: one JSON request a line on stdin, one answer a line on stdout.

    python worker.py FOLDER_OF_THE_ENGINE STATE_DIR KEYS

It stands for whoever runs the engine: what is planted in its environment, its descriptors and its session keyring is
what a sandbox must not inherit. KEYS is an object of descriptions and payloads. Standard library only: an account that
can read nothing of the checkout runs it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import platform
import resource
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

_KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}
_JOIN_SESSION_KEYRING, _SESSION_KEYRING = 1, -3


class Worker:
    """What can be asked for; each public method is one request."""

    def __init__(self, state_dir: str) -> None:
        self._facade = importlib.import_module("claude_sandbox.sandboxes")
        self._inside = importlib.import_module("claude_sandbox.inside")
        self._sandboxes = self._facade.Sandboxes(state_dir=state_dir)

    def ensure(self, name: str, state: str, params: Mapping[str, Any] | None, api_key: str | None) -> Any:
        request = self._facade.Request(name, state, params, "restart", api_key, purge=state == "absent")
        return list(self._sandboxes.ensure(request).actions)

    def execute(self, name: str, argv: Sequence[str], env: Mapping[str, str], timeout: float = 60) -> Any:
        done = self._sandboxes.execute(name, argv, env=env, timeout=timeout)
        return {"code": done.code, "out": done.stdout.decode(), "err": done.stderr.decode()}

    def type(self, name: str, text: str) -> Any:
        return self._sandboxes.converse(name, text, ["Enter"], self._inside.Wait())["screen"]

    def screen(self, name: str) -> Any:
        return self._sandboxes.converse(name, None, [], self._inside.Wait())["screen"]

    def outside(self, argv: Sequence[str], env: Mapping[str, str], uid: int, gid: int) -> Any:
        """Run a program on the host with all that this process has; what it would be if nothing were kept from it."""
        done = subprocess.run(
            argv,
            user=uid,
            group=gid,
            extra_groups=[],
            env={**os.environ, **env},
            cwd="/",
            close_fds=False,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=60,
        )
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr}

    def facts(self, name: str) -> Any:
        """Where a sandbox is on the host, and what was started for it."""
        record = self._sandboxes.registry.get(name)
        if record is None:
            return None
        spec = record.asked()
        store = self._sandboxes.registry.project_store(spec, self._sandboxes.owner(spec))
        instance = record.instance.to_dict() if record.instance else None
        return {
            "record": record.folder,
            "data": record.data,
            "store": store,
            "instance": instance,
            "view": self._sandboxes.view(record),
        }

    def order(self, name: str, label: str, pane: str) -> Any:
        """A container as an account makes it that has taken over the process which asks root for it.

        pane: a file of its own choice, to which root is to tell the exit code. Returns what came, or what root said.
        """
        machines, privileged, host, container = (
            importlib.import_module(f"claude_sandbox.{each}")
            for each in ("machines", "privileged", "host", "backends.container")
        )
        owner = host.account(name)
        links = tuple((f"/{top}", f"usr/{top}") for top in ("bin", "lib", "lib64", "sbin") if os.path.islink(f"/{top}"))
        argv, shell = ("/usr/bin/bash", "-c", "sleep 0.5; exit 7"), "/usr/bin/bash"
        mounted = (machines.Mounted("/usr", "/usr", False, False),)
        files = {
            "/etc/passwd": f"{name}:x:{owner.uid}:{owner.gid}::{owner.home}:/bin/sh\n".encode(),
            "/etc/group": f"{name}:x:{owner.gid}:\n".encode(),
        }

        def ask() -> str:
            order = machines.Order(
                machine=machines.name_of("hostile", os.urandom(6).hex()),
                label=label,
                hostname="x",
                network=True,
                user_namespace=True,
                mounts=mounted,
                links=links,
                devices=(),
                files=files,
                env={},
                shell=shell,
                argv=argv,
                cwd="/usr",
                pane=os.getpid(),
                limits={},
            )
            master, slave = os.openpty()
            # For both, where it is a pipe: it then needs nobody at its other end.
            flags = os.O_RDWR if stat.S_ISFIFO(os.stat(pane).st_mode) else os.O_WRONLY
            chosen = os.open(pane, flags | os.O_NONBLOCK)
            usr = os.open("/usr", os.O_PATH)
            try:
                privileged.ask("start", order.to_json(), [slave, chosen, usr])
                os.set_blocking(master, False)
                end = time.monotonic() + 30  # on a busy machine a container takes seconds
                while time.monotonic() < end:
                    with contextlib.suppress(BlockingIOError):
                        os.read(master, 4096)
                    with contextlib.suppress(OSError):
                        if flags == os.O_RDWR:
                            return os.read(chosen, 4096).decode()
                    time.sleep(0.05)
            except importlib.import_module("claude_sandbox.errors").SandboxError as error:
                return str(error)
            return "made"

        try:
            return privileged.serving(owner, container.handlers(owner, trusted=True), ask)
        finally:
            machines.stop_labelled(label)

    def names(self) -> Any:
        return self._sandboxes.registry.names()

    def usage(self, name: str) -> Any:
        """The usage, and what it took: seconds, and the most memory in bytes that this process or a child ever had."""
        begin = time.monotonic()
        usage = self._sandboxes.usage(self._sandboxes.registry.get(name))
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peak = max(resource.getrusage(each).ru_maxrss for each in who) * 1024
        return {"usage": usage, "seconds": time.monotonic() - begin, "peak": peak}


def _plant_keys(keys: Mapping[str, str]) -> None:
    """A session keyring of our own, with keys in it; nothing where this machine's calls are not known."""
    libc = ctypes.CDLL(None)
    add_key, keyctl = _KEYCTL.get(platform.machine(), (0, 0))
    if not keyctl or libc.syscall(keyctl, _JOIN_SESSION_KEYRING, b"claude-sandbox-probes") < 0:
        return
    for description, payload in keys.items():
        data = payload.encode()
        libc.syscall(add_key, b"user", description.encode(), data, len(data), _SESSION_KEYRING)


def main(engine: str, state_dir: str, keys: str) -> None:
    """Answer until stdin ends."""
    sys.path.insert(0, engine)
    _plant_keys(json.loads(keys))
    worker = Worker(state_dir)
    error = importlib.import_module("claude_sandbox.errors").SandboxError
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(worker, request.pop("do"))(**request)}
        except (error, RuntimeError, OSError, subprocess.SubprocessError) as problem:
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        except Exception:  # noqa: BLE001 - the tests to come need the engine, and nobody else removes its sandboxes
            answer = {"broken": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
