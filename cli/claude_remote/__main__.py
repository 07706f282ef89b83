# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the command that was typed, and tells what goes wrong in one line."""

from __future__ import annotations

import os
import sys

from .errors import FAILED, INTERRUPTED, OK, RemoteError
from .text import inert, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# Where each command is: only that module is imported.
_COMMANDS = {
    "create": ("changing", "create"),
    "start": ("changing", "start"),
    "stop": ("changing", "stop"),
    "delete": ("changing", "delete"),
    "list": ("looking", "list_all"),
    "logs": ("looking", "logs"),
    "metrics": ("looking", "metrics"),
    "screenshot": ("looking", "screenshot"),
    "attach": ("terminal", "attach"),
    "exec": ("terminal", "execute"),
    "ui": ("dashboard", "ui"),
    "sync": ("transfer", "sync"),
    "watch": ("watching", "watch"),
    "disconnect": ("others", "disconnect"),
    "completion": ("others", "completion"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Carry out a command, and return the exit code."""
    given = sys.argv[1:] if words is None else list(words)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that does not know a character is no reason to end.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _carried_out(given)
    except RemoteError as error:
        say(inert(f"{error.what} {error.hint}".strip()))
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads has seen enough. What is still to be written goes nowhere, also at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        say(inert(f"{error}."))
        return FAILED


def _carried_out(given: list[str]) -> int:
    # The one that is typed most often needs no parser, which takes as long as all the rest of it.
    if given == ["list"]:
        from types import SimpleNamespace

        from . import looking

        options: argparse.Namespace = SimpleNamespace(host=None, json=False, all_hosts=False)  # type: ignore[assignment]
        return looking.list_all(options)
    import importlib
    import signal

    from . import arguments

    options = arguments.parse(given)
    # So that whatever is to be put right at the end is.
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    module, function = _COMMANDS[options.command]
    code: int = getattr(importlib.import_module(f".{module}", __package__), function)(options)
    return code


def _terminated(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
