# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module processes as Ansible starts them: built by Ansible itself, then run again and again."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any
from unittest import mock

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SECONDS = 60
# Ansible ships the helpers that a module imports; this one imports what every module does.
_BARE = """\
#!/usr/bin/python
from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

if __name__ == "__main__":
    AnsibleModule(**{arguments!r}).exit_json(changed=False)
"""


class _ArgumentsGivenError(Exception):
    """Carries what a module gives to AnsibleModule, out of its main function."""


class Payload:
    """What Ansible sends to a host for one call of a module, parameters included.

    Ansible builds it in a real call, in check mode so that nothing comes of it, and is told to leave the file where it
    lies; in that file the mode is turned off. A pipelined connection feeds such a file to the interpreter's standard
    input, and so does `run`.
    """

    def __init__(self, folder: str, module: str, params: dict[str, Any], library: str = "") -> None:
        kept = f"{folder}/kept"
        environ = {
            **os.environ,
            "ANSIBLE_CONFIG": str(_ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": f"{folder}/ansible",
            "ANSIBLE_REMOTE_TMP": kept,
            "ANSIBLE_KEEP_REMOTE_FILES": "1",
            **({"ANSIBLE_LIBRARY": library} if library else {}),
        }
        argv = [
            sys.executable,
            "-m",
            "ansible",
            "adhoc",
            "--check",
            "localhost",
            "-m",
            module,
            "-a",
            json.dumps(params),
        ]
        done = subprocess.run(
            argv, env=environ, cwd=_ROOT, capture_output=True, check=False, encoding="utf-8", timeout=_SECONDS
        )
        found = list(pathlib.Path(kept).glob(f"*/AnsiballZ_{module}.py"))
        if done.returncode != 0 or len(found) != 1:
            raise RuntimeError(
                f"Ansible did not run {module}: {done.stdout.strip()[-500:]} {done.stderr.strip()[-500:]}"
            )
        checking, running = (f'"_ansible_check_mode": {word}'.encode() for word in ("true", "false"))
        built = found[0].read_bytes()
        if built.count(checking) != 1:
            raise RuntimeError("Ansible says in another way than known that a call is in check mode")
        self._content = built.replace(checking, running)
        shutil.rmtree(kept)

    def run(self, changed: bool) -> None:
        """Run it once. Raises RuntimeError where it fails, or does not report the change that is expected."""
        # What is set for our own interpreter is no part of a host: unbuffered, it would read its program byte by byte.
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(
            [sys.executable], input=self._content, env=environ, capture_output=True, check=False, timeout=_SECONDS
        )
        result = json.loads(done.stdout) if done.stdout else {}
        if done.returncode != 0 or result.get("changed") is not changed:
            raise RuntimeError(f"A module did not do as expected: {done.stdout[-500:]!r} {done.stderr[-500:]!r}")


def bare(folder: str, module: str, params: dict[str, Any]) -> Payload:
    """A module that takes the same parameters as `module` of this collection, and does nothing."""
    library, name = f"{folder}/library", f"bare_{module}"
    os.makedirs(library, exist_ok=True)
    pathlib.Path(f"{library}/{name}.py").write_text(_BARE.format(arguments=_arguments(module)), encoding="utf-8")
    return Payload(folder, name, params, library)


def _arguments(module: str) -> dict[str, Any]:
    """What a module gives to AnsibleModule: taken from the module as it runs, so that it is the very same."""
    # Imported only now: Ansible's own code makes this process bigger, and its forks slower.
    from ansible_collections.claude_code.nix_sandbox.plugins.modules import claude_sandbox, claude_sandboxes

    source = {"claude_sandbox": claude_sandbox, "claude_sandboxes": claude_sandboxes}[module]

    def caught(**arguments: Any) -> None:
        raise _ArgumentsGivenError(arguments)

    with mock.patch.object(source, "AnsibleModule", caught):
        try:
            source.main()
        except _ArgumentsGivenError as given:
            found: dict[str, Any] = given.args[0]
            return found
    raise RuntimeError(f"{module} made no AnsibleModule")
