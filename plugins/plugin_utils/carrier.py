# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the engine of a host, by the connection that Ansible itself has to that host.

Nothing has to be installed there: on_host.py goes along with each call, the engine once for each version of it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import os
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import claude_sandbox
from ansible_collections.claude_code.nix_sandbox.plugins.plugin_utils import on_host

CONNECTION = "claude_code.nix_sandbox.sandbox"
_BOOT = "f=open(0,'rb',0,closefd=False);exec(f.readline())"
# The first line that it reads: so many bytes more are the program.
_LOAD = "p=b''\nwhile len(p)<{size}:\n q=f.read({size}-len(p))\n if not q:raise SystemExit(9)\n p+=q\nexec(p)"
_MESSAGE_LIMIT = 500  # characters
_ENGINE_DIR = "~/.ansible/claude-sandbox"


@dataclasses.dataclass(frozen=True)
class Access:
    """How the engine of a host is reached, beside what the host's own variables say.

    become_user: the account that the engine runs as, where it is not the one that logs in.
    python, engine_dir: on the host. output_limit: bytes of output that a call may have.
    """

    become_user: str | None = None
    state_dir: str | None = None
    python: str | None = None
    engine_dir: str | None = None
    output_limit: int = 1 << 28


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a call has brought. code: the exit code of the command inside."""

    code: int
    stdout: bytes
    stderr: bytes


class Carrier:
    """A host, to whose engine orders are carried."""

    def __init__(self, host: str, connection: Any, become: Any, python: str, access: Access) -> None:
        self.host = host
        self._connection = connection
        self._become = become
        self._python = python
        self._access = access

    @classmethod
    def to(cls, host: str, variables: Mapping[str, Any], access: Access, play_context: PlayContext) -> Carrier:
        """A carrier to the host that has these variables, templated. Raises AnsibleError where there is no way."""
        name = str(variables.get("ansible_connection") or constants.DEFAULT_TRANSPORT)
        if name in ("smart", "sandbox", CONNECTION):
            if name != "smart":
                raise AnsibleError(f"{host} is a sandbox itself, and no host that has some.")
            name = "ssh"
        context = copy.copy(play_context)
        # Of the play nothing but passwords is meant for this host.
        context.remote_addr = variables.get("ansible_host", host)
        context.remote_user, context.port, context.become = None, None, False
        connection = connection_loader.get(name, context, task_uuid="", ansible_playbook_pid=str(os.getppid()))
        if connection is None:
            raise AnsibleError(f"{host} has the connection {name}, which is not there.")
        named = {"inventory_hostname": host, **_chosen("connection", connection, variables)}
        # Input always goes through a pipe: a terminal would change its bytes.
        connection.set_options(var_options=named, direct={"pipelining": True})
        become = _become(variables, access.become_user)
        connection.set_become_plugin(become)
        interpreter = str(variables.get("ansible_python_interpreter") or "")
        python = access.python or (interpreter if interpreter.startswith("/") else "python3")
        return cls(host, connection, become, python, access)

    def run(self, name: str, argv: list[str], stdin: bytes, *, keys: bool = False) -> Answer:
        """Run a command in a sandbox. keys: whether it gets the agent's secrets.

        Raises AnsibleConnectionFailure where the host or the sandbox cannot be worked in.
        """
        return self._ordered({"operation": "run", "name": name, "argv": argv, "secrets": keys}, stdin)

    def views(self) -> Any:
        """The sandboxes of the host, as it describes them. Raises AnsibleConnectionFailure."""
        found = self._ordered({"operation": "list"}, b"")
        try:
            return json.loads(found.stdout)
        except (ValueError, RecursionError):
            raise AnsibleConnectionFailure(f"{self.host} has not answered with a list of sandboxes.") from None

    def close(self) -> None:
        """Close the host's connection."""
        self._connection.close()

    def reset(self) -> None:
        """Have the host's connection made anew."""
        self._connection.reset()

    def _ordered(self, order: dict[str, Any], stdin: bytes) -> Answer:
        told, stdout, stderr = self._call(order, stdin)
        if "missing" in told:
            self._call({"operation": "install"}, engine())
            told, stdout, stderr = self._call(order, stdin)
        if "missing" in told:
            raise self._failure("The engine does not stay there.")
        return Answer(told.get("code", 0), stdout, stderr)

    def _call(self, order: dict[str, Any], stdin: bytes) -> tuple[dict[str, Any], bytes, bytes]:
        """Run on_host.py with an order: what it tells, and the output of what it has done."""
        mark = f"claude-sandbox-{secrets.token_hex(16)}:"
        whole = {
            **order,
            "mark": mark,
            "engine": hashlib.sha256(engine()).hexdigest(),
            "folder": self._access.engine_dir or _ENGINE_DIR,
            "state_dir": self._access.state_dir,
            "limit": self._access.output_limit,
        }
        sent = _program() + json.dumps(whole).encode() + b"\n" + stdin
        others = _children()
        try:
            code, stdout, stderr = self._connection.exec_command(self._command(), in_data=sent, sudoable=True)
        except AnsibleError as error:
            raise self._failure(str(error)) from None
        except BaseException:
            # A task's time is over. ssh would go on, and with it what it has started there.
            for pid in _children() - others:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGTERM)
            raise
        before, _mark, rest = stderr.partition(f"{mark}\n".encode())
        errors, found, answer = rest.rpartition(mark.encode())
        if not found:
            raise self._failure(_last_line(rest or before) or f"{self._python} ended with exit code {code}.")
        line, _end, later = answer.partition(b"\n")
        told = self._read(line)
        if "refused" in told:
            raise self._failure(str(told["refused"]))
        return told, stdout.partition(f"{mark}\n".encode())[2], errors + later

    def _read(self, line: bytes) -> dict[str, Any]:
        """What the host tells, which is as it should be unless somebody has taken the place of Python there."""
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or not isinstance(told.get("code", 0), int):
            raise self._failure("It has answered with something else than was agreed.")
        return told

    def _command(self) -> str:
        # Neither a quote nor anything else in it that a shell of another kind would read otherwise.
        command = f'{_quoted(self._python)} -IS -c "{_BOOT}"'
        if self._become is None:
            return command
        shell = self._connection._shell
        return str(self._become.build_become_command(command, shell))

    def _failure(self, words: str) -> AnsibleConnectionFailure:
        return AnsibleConnectionFailure(f"{self.host}: {_inert(words)}")


def _chosen(kind: str, plugin: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Of a host's variables those that are options of a plugin."""
    names = constants.config.get_plugin_vars(kind, plugin._load_name)
    return {name: variables[name] for name in names if name in variables}


def _become(variables: Mapping[str, Any], user: str | None) -> Any:
    """What makes another account's process on the host; None where none is asked for."""
    if user is None and not boolean(variables.get("ansible_become", False), strict=False):
        return None
    method = str(variables.get("ansible_become_method") or constants.DEFAULT_BECOME_METHOD)
    plugin = become_loader.get(method)
    if plugin is None:
        raise AnsibleError(f"There is no become method {method}.")
    chosen = _chosen("become", plugin, variables)
    plugin.set_options(var_options=chosen, direct={} if user is None else {"become_user": user})
    return plugin


def _quoted(path: str) -> str:
    """A path as a word of a shell's."""
    if not path or set(path) & set("'\0\n"):
        raise AnsibleError(f"{path!a} is no program.")
    return path if path.replace("/", "").replace(".", "").replace("-", "").isalnum() else f"'{path}'"


@functools.cache
def engine() -> bytes:
    """The engine as one archive, the same for the same engine: the modules' names and texts."""
    modules = {}
    top = Path(next(iter(claude_sandbox.__path__)))
    for path in sorted(top.rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(("claude_sandbox", *(parts[:-1] if is_package else parts)))
        modules[name] = (is_package, path.read_text(encoding="utf-8"))
    # A folder without an __init__.py is a package all the same.
    for name in {name.rpartition(".")[0] for name in modules} - {""}:
        modules.setdefault(name, (True, ""))
    return json.dumps(modules, sort_keys=True).encode()


@functools.cache
def _program() -> bytes:
    """What Python on the host reads first."""
    text = Path(on_host.__file__).read_bytes()
    return f"exec({_LOAD.format(size=len(text))!r})\n".encode() + text


def _children() -> set[int]:
    """The processes that this one has started; none where the system does not tell."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(word) for word in path.read_text(encoding="ascii").split()}
    return found


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _inert(words: str) -> str:
    """Words from elsewhere in one line, of bounded length, that no terminal obeys."""
    line = " ".join(words.split())
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)
    return shown if len(shown) <= _MESSAGE_LIMIT else f"{shown[:_MESSAGE_LIMIT]}…"
