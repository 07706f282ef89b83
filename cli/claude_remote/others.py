# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands beside: disconnect, completion."""

from __future__ import annotations

import os
from typing import Any

from . import arguments, config, ssh
from .errors import FAILED, OK, RemoteError
from .runtime import Files
from .text import out


def disconnect(options: Any) -> int:
    """End the connection that commands share, and forget what was kept of it."""
    target = config.chosen(options.host, os.environ)
    was = ssh.close(target, Files(target, os.environ))
    out(f"The connection to {target.host} is closed." if was else f"There is no connection to {target.host}.")
    return OK


def completion(options: Any) -> int:
    """Print the completion for a shell."""
    try:
        import shtab
    except ImportError:
        raise RemoteError("This needs shtab.", "Install it: pip install shtab", FAILED) from None
    out(shtab.complete(arguments.parser(), options.shell))
    return OK
