# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A project before and after an agent has worked in it, compared by a process of the account whose it is."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from . import difference, namespaces, procs, snapshot
from .errors import SandboxError, shown
from .host import Account, Host


class Comparison:
    """A child that looks at a project now, under the account whose it is, and again when it is asked what changed."""

    def __init__(self, host: Host, owner: Account, project_dir: str) -> None:
        """Look at it. Raises SandboxError where it cannot be read."""
        seen, tell = os.pipe()
        asked, self._ask = os.pipe()

        def work() -> Any:
            namespaces.die_with_parent()
            os.close(seen)
            os.close(self._ask)
            try:
                before = snapshot.take(project_dir)
                os.write(tell, b"+")
                # Nothing comes where the parent has given up, or is gone.
                return difference.between(before, snapshot.take(project_dir, before)) if os.read(asked, 1) else None
            except OSError as error:
                raise SandboxError(f"{shown(project_dir)} cannot be looked at: {error.strerror}.") from None

        self._child = procs.fork(owner if owner.uid != host.uid else None, work)
        os.close(tell)
        os.close(asked)
        with open(seen, "rb") as pipe:
            if not pipe.read(1):
                os.close(self._ask)
                self._child.result()

    def result(self) -> tuple[dict[str, Any], str]:
        """What has changed since: the files, and the difference of their texts. Raises SandboxError."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._ask, b"+")
        os.close(self._ask)
        files, patch = self._child.result()
        return files, patch

    def give_up(self) -> None:
        """End it, where nobody wants to know any more."""
        os.close(self._ask)
        with contextlib.suppress(SandboxError):
            self._child.result()
