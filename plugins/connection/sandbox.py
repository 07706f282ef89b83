# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules inside a sandbox: the host's own connection carries, and the engine goes in."""

from __future__ import annotations

DOCUMENTATION = r"""
name: sandbox
short_description: Run tasks inside a sandbox
version_added: 0.1.0
author:
  - claude_code.nix_sandbox contributors (@claude-code)
description:
  - Runs any module inside a running sandbox, under the account and the restrictions of its agent.
  - The sandbox's host is reached by that host's own connection, with that host's variables. Nothing of this collection
    has to be installed there; the engine is sent once for each version, and kept in O(engine_dir).
  - The inventory plugin P(claude_code.nix_sandbox.sandboxes#inventory) sets all that is needed here.
  - There is no way to more rights inside a sandbox. With C(become) a task fails.
  - What comes out of a sandbox is untrusted, facts as well.
notes:
  - Modules need Python inside, which a sandbox with the host's own programs has.
  - In a container or a virtual machine a command's output is there only after it has ended, and is limited to 16 MiB
    for each stream; a command that prints more fails.
requirements:
  - Python 3.11 or newer on the host, and on it what its sandboxes need
options:
  name:
    description: The sandbox, by its name or its id.
    type: str
    vars:
      - name: inventory_hostname
      - name: ansible_sandbox_name
  host:
    description:
      - The inventory's name for the host on which the sandbox is.
      - Its variables say how it is reached, C(ansible_connection), C(ansible_host), C(ansible_user), C(ansible_become)
        and so on.
    type: str
    default: localhost
    vars:
      - name: ansible_sandbox_host
  become_user:
    description:
      - The account on the host that works for the sandbox, its own or C(root).
      - It is become by the host's C(ansible_become_method), C(sudo) unless set. Without a password given for the host
        that must be allowed without one.
      - Where left out, the account that logs in does it, or the one that the host's C(ansible_become) leads to.
    type: str
    vars:
      - name: ansible_sandbox_become_user
  state_dir:
    description: The directory of the registry on the host; that account's own where left out.
    type: str
    vars:
      - name: ansible_sandbox_state_dir
  python:
    description: Python on the host; its C(ansible_python_interpreter) where that is a path, and C(python3) elsewhere.
    type: str
    vars:
      - name: ansible_sandbox_python
  engine_dir:
    description:
      - Where that account keeps the engine on the host. Only that account may be able to write to it.
    type: str
    default: ~/.ansible/claude-sandbox
    vars:
      - name: ansible_sandbox_engine_dir
  secrets:
    description:
      - Whether what is run gets the agent's secrets, C(api_key) and C(secret_env), in its environment.
      - The module M(ansible.builtin.setup) returns its whole environment, and facts may be cached.
    type: bool
    default: false
    vars:
      - name: ansible_sandbox_secrets
  output_limit:
    description: How many bytes a command may print. One that prints more is ended, and fails.
    type: int
    default: 268435456
    vars:
      - name: ansible_sandbox_output_limit
  remote_user:
    description: Not used. A sandbox has one account.
    type: str
extends_documentation_fragment:
  - ansible.builtin.connection_pipelining
"""

import contextlib
import os
import posixpath
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

from ansible_collections.claude_code.nix_sandbox.plugins.plugin_utils.carrier import Access, Answer, Carrier

_PIECE = 4 << 20  # bytes of a file in one call
# A file that is being written is its account's alone, and has its name only when it is whole.
_PUT = 'umask 077 && cat >>"$1" && wc -c <"$1"'
_PUT_NAME = 'mv -fT -- "$1" "$2"'
_REMOVE = 'rm -f -- "$1"'
_SIZE = '[ -e "$1" ] || exit 44; [ -f "$1" ] || exit 45; wc -c <"$1"'
_PIECE_OF = 'dd if="$1" bs="$2" skip="$3" count=1 iflag=fullblock status=none'
_WHY = {44: "it is not there", 45: "it is no plain file"}
_PAST = {"write": "written", "read": "read"}

display = Display()


class Connection(ConnectionBase):
    """The connection to a sandbox."""

    transport = "claude_code.nix_sandbox.sandbox"
    has_pipelining = True
    has_tty = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._carrier: Carrier | None = None
        self._host_variables: Callable[[str], Mapping[str, Any]] = _unknown

    def set_become_plugin(self, plugin: Any) -> None:
        """Refuse: nothing inside a sandbox can gain rights."""
        if plugin is not None:
            raise AnsibleError(
                "become does not work inside a sandbox, where nobody can gain rights: set become (or ansible_become) to"
                " false for it. For the account on its host there is ansible_sandbox_become_user."
            )
        super().set_become_plugin(plugin)

    def _resolve_option_variables(self, variables: Mapping[str, Any], templar: Any) -> dict[str, Any]:
        """The variables of this connection; here, and nowhere else, those of the host can be had, too."""
        found: dict[str, Any] = super()._resolve_option_variables(variables, templar)
        _check_facts(variables, self._load_name)
        known = variables.get("hostvars")
        if known is not None:
            self._host_variables = lambda host: _variables_of(known, host)
        return found

    def _connect(self) -> Connection:
        if self._carrier is None:
            host = self.get_option("host")
            access = Access(
                become_user=self.get_option("become_user"),
                state_dir=self.get_option("state_dir"),
                python=self.get_option("python"),
                engine_dir=self.get_option("engine_dir"),
                output_limit=self.get_option("output_limit"),
            )
            self._carrier = Carrier.to(host, self._host_variables(host), access, self._play_context)
            self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a command of a shell's inside; its exit code and what it prints."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        display.vvv(f"EXEC {to_text(cmd)}", host=self._name)
        done = self._run(["/bin/sh", "-c", to_text(cmd, errors="surrogateescape")], in_data or b"")
        return done.code, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the controller's into the sandbox."""
        super().put_file(in_path, out_path)
        display.vvv(f"PUT {in_path} TO {out_path}", host=self._name)
        draft = posixpath.join(posixpath.dirname(out_path) or ".", f".ansible-{secrets.token_hex(8)}")
        try:
            with Path(in_path).open("rb") as source:
                self._write(source, out_path, draft)
            self._script("write", out_path, _PUT_NAME, draft, out_path)
        except AnsibleError:
            with contextlib.suppress(AnsibleError):
                self._script("write", out_path, _REMOVE, draft)
            raise
        except OSError as error:
            raise AnsibleFileNotFound(f"{in_path} cannot be read: {error.strerror}.") from None

    def _write(self, source: Any, out_path: str, draft: str) -> None:
        size = 0
        while (piece := source.read(_PIECE)) or not size:
            size += len(piece)
            arrived = _number(self._script("write", out_path, _PUT, draft, stdin=piece).stdout)
            if arrived != size:
                raise AnsibleError(
                    f"{out_path!r} cannot be written in the sandbox: {arrived} of {size} bytes are there."
                )
            if not piece:
                break

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the sandbox's to the controller."""
        super().fetch_file(in_path, out_path)
        display.vvv(f"FETCH {in_path} TO {out_path}", host=self._name)
        size = _number(self._script("read", in_path, _SIZE, in_path).stdout)
        try:
            with Path(out_path).open("wb") as sink:
                self._read(in_path, size, sink)
        except OSError as error:
            raise AnsibleError(f"{out_path} cannot be written: {error.strerror}.") from None
        except AnsibleError:
            with contextlib.suppress(OSError):
                os.unlink(out_path)
            raise

    def _read(self, in_path: str, size: int, sink: Any) -> None:
        done = number = 0
        while done < size:
            piece = self._script("read", in_path, _PIECE_OF, in_path, str(_PIECE), str(number)).stdout
            done, number = done + len(piece), number + 1
            # Never more than was asked for, whatever the sandbox answers.
            if len(piece) > _PIECE or len(piece) != min(_PIECE, size - done + len(piece)):
                raise AnsibleError(f"{in_path!r} cannot be read in the sandbox: it has changed meanwhile.")
            sink.write(piece)

    def _script(self, does: str, path: str, script: str, *words: str, stdin: bytes = b"") -> Answer:
        """Run a script of ours inside. Raises AnsibleError where it fails."""
        done = self._run(["/bin/sh", "-c", script, "sh", *words], stdin)
        if done.code:
            said = to_text(done.stderr, errors="replace").strip().splitlines()
            why = _WHY.get(done.code) or (said[-1] if said else f"exit code {done.code}")
            raise AnsibleError(f"{path!r} cannot be {_PAST[does]} in the sandbox: {why}.")
        return done

    def _run(self, argv: list[str], stdin: bytes) -> Answer:
        self._connect()
        if self._carrier is None:
            raise AnsibleConnectionFailure("There is no connection.")
        return self._carrier.run(self._name, argv, stdin, keys=self.get_option("secrets"))

    @property
    def _name(self) -> str:
        return str(self.get_option("name"))

    def reset(self) -> None:
        """Have the host's connection made anew."""
        if self._carrier is not None:
            self._carrier.reset()
        self.close()

    def close(self) -> None:
        """Close the host's connection."""
        if self._carrier is not None:
            self._carrier.close()
        self._carrier = None
        self._connected = False


def _number(output: bytes) -> int:
    """A size that the sandbox tells, which may be anything."""
    text = output.strip()
    return int(text) if text.isdigit() and len(text) < 20 else -1


def _unknown(host: str) -> Mapping[str, Any]:
    raise AnsibleError(f"The variables of {host}, the sandbox's host, are not known here.")


def _variables_of(known: Mapping[str, Any], host: str) -> Mapping[str, Any]:
    """A host's variables, each templated when it is looked at. known: those of all hosts."""
    if host not in known:
        raise AnsibleError(f"There is no host {host} in the inventory, on which the sandbox would be.")
    found: Mapping[str, Any] = known[host]
    return found


def _check_facts(variables: Mapping[str, Any], plugin: str) -> None:
    """Refuse to be led elsewhere by a fact: a fact counts more than the inventory, and comes from the sandbox.

    Ansible itself drops such facts for the connections that it knows, and it knows none of a collection's.
    """
    facts = variables.get("ansible_facts") or {}
    names = constants.config.get_plugin_vars("connection", plugin)
    for name in sorted(names):
        if name.startswith("ansible_sandbox_") and name.removeprefix("ansible_") in facts:
            raise AnsibleConnectionFailure(
                f"The sandbox has returned {name} as a fact, and so would choose what runs on its host. It is refused."
            )
