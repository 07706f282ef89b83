# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one kind of error that a user of the engine meets."""

from __future__ import annotations


class SandboxError(Exception):
    """Something the user can understand and act upon.

    what: what went wrong, and why, in one line.
    hint: what to do about it, in one line; may be empty.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


class ConflictError(SandboxError):
    """What is asked for could be, were the sandbox in another state than it is in now."""


def shown(value: object) -> str:
    """A value as it may stand in a message: quoted, on one line, of bounded length."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        # Python does not write out a number of thousands of digits.
        text = f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= 120 else f"{text[:100]}…({len(text)} characters)"
