# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The C library, for the calls of the kernel that Python's os does not have in every version that is supported."""

from __future__ import annotations

import ctypes
import os

_library = ctypes.CDLL(None, use_errno=True)
_library.syscall.restype = ctypes.c_long


def call(function: str, *arguments: object) -> int:
    """What a function of the C library returns. Raises OSError where that is negative."""
    return _checked(getattr(_library, function)(*arguments))


def syscall(number: int, *arguments: object) -> int:
    """What a system call without a function of its own returns. Raises OSError where that is negative."""
    return _checked(_library.syscall(number, *arguments))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
