# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Abstract sockets kept apart where the network is shared, for they belong to the network's namespace.

Without this a sandbox with the network could talk to whatever listens on one outside: a desktop's X server lets
processes of the same account in by that way, often without a cookie. Constants are those of linux/landlock.h.
"""

from __future__ import annotations

import os
import struct

from . import libc

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same number on every architecture
_VERSION_FLAG = 1
_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_SCOPES_SINCE = 6  # the version of the interface; Linux 6.12
_PR_SET_NO_NEW_PRIVS = 38


def available() -> bool:
    """Whether this kernel can keep abstract sockets apart."""
    try:
        return libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG) >= _SCOPES_SINCE
    except OSError:
        return False


def confine() -> None:
    """From here on this process and its children reach no abstract socket but their own.

    Where the kernel cannot, nothing is done. Raises OSError where it can and does not. Sets no_new_privs.
    """
    if not available():
        return
    # Accesses to files and to TCP ports that are ruled over (none), and the scopes.
    rules = struct.pack("=QQQ", 0, 0, _SCOPE_ABSTRACT_UNIX_SOCKET)
    ruleset = libc.syscall(_CREATE_RULESET, rules, len(rules), 0)
    try:
        libc.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
