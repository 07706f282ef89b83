# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of claude_sandbox_screenshot: the picture that the module takes on the host, as a file here."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import files


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's base class has no types
    """Runs the module, and writes the file where it is wanted here."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        fetched = boolean(args.get("fetch", False), strict=False)
        # What cannot be done is said before anything is.
        mode = _parsed(args.get("mode", "0600")) if fetched else 0
        # The module is told that no file of its host is meant; where there is no dest, it says so.
        sent = {**args, "dest": ""} if fetched and "dest" in args else args
        result |= self._execute_module(module_args=sent, task_vars=task_vars)
        # Neither who runs the play nor a log is given the picture itself.
        content = result.pop("content", None)
        if not fetched or result.get("failed"):
            return result
        path = self._loader.path_dwim(str(args["dest"]))
        if content is not None:
            result["changed"] = _write(path, base64.b64decode(content), mode)
        return result | {"path": path}


def _parsed(mode: object) -> int:
    """A mode as a number. Raises AnsibleActionFail where it cannot be one."""
    try:
        # What YAML reads as a number is one already.
        found = mode if isinstance(mode, int) else int(str(mode), 8)
    except ValueError:
        found = -1
    if not 0 <= found <= 0o7777:
        raise AnsibleActionFail("With fetch, mode has to be an octal number such as '0600'.")
    return found


def _write(path: str, content: bytes, mode: int) -> bool:
    """Have the file hold this picture, with this mode; whether that was a change."""
    if os.path.lexists(path) and not os.path.isfile(path):
        raise AnsibleActionFail(f"dest {path} is no plain file.")
    try:
        changed = not os.path.lexists(path) or _checksum(path) != hashlib.sha256(content).digest()
        if changed:
            files.replace(path, content)
        if stat.S_IMODE(os.stat(path).st_mode) != mode:
            os.chmod(path, mode)
            changed = True
    except OSError as error:
        raise AnsibleActionFail(f"The picture cannot be written to {path}: {error.strerror}.") from None
    return changed


def _checksum(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
