# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The error that a user sees, and the exit codes that scripts go by."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
AMBIGUOUS = 4
CONNECTION = 5
TOKEN = 6
INTERRUPTED = 130


class RemoteError(Exception):
    """Something that cannot be done: `what` says what and why, `hint` what to do, `code` is what the program ends with.

    status: the manager's, where it refused.
    """

    def __init__(self, what: str, hint: str = "", code: int = FAILED, status: int = 0) -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.hint = hint
        self.code = code


class LostError(RemoteError):
    """The connection is not there, or not any more; another try may find it again."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint, CONNECTION)


class UnansweredError(LostError):
    """The connection was closed before a word came back."""
