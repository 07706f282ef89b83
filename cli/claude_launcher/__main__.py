# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command claude-sandbox."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from claude_sandbox.errors import SandboxError

_USAGE = 2
_FAILED = 1


def main() -> NoReturn:
    """claude-sandbox."""
    _leave(run(sys.argv[1:]))


def container() -> NoReturn:
    """claude-sandbox-container."""
    _leave(run(_with_backend("container", sys.argv[1:])))


def vm() -> NoReturn:
    """claude-sandbox-vm."""
    _leave(run(_with_backend("vm", sys.argv[1:])))


def _leave(code: int) -> NoReturn:
    """End this process; Python would first take apart all that it has loaded, which nobody is to wait for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def run(words: Sequence[str]) -> int:
    """Run the command; its exit code."""
    try:
        code = _run(list(words))
        sys.stdout.flush()
        return code
    except SystemExit as asked:
        # What argparse ends with.
        return asked.code if isinstance(asked.code, int) else _USAGE
    except SandboxError as error:
        print(f"claude-sandbox: {error.what}", *([error.hint] if error.hint else []), sep="\n  ", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has seen enough; nothing is to be flushed at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _with_backend(name: str, words: Sequence[str]) -> list[str]:
    """The words with the backend chosen, where that has a meaning."""
    from .arguments import COMMANDS

    command = [word for word in words[:1] if word in COMMANDS]
    chosen = [] if command and command != ["grants"] else ["--backend", name]
    return [*command, *chosen, *words[len(command) :]]


def _run(words: list[str]) -> int:
    from . import arguments

    ours, theirs = arguments.parted(words)
    if ours and ours[0] in arguments.COMMANDS:
        from . import commands

        return commands.run(ours[0], ours[1:], theirs)
    from . import launch

    return launch.run(arguments.launching().parse_args(ours), theirs)


if __name__ == "__main__":
    main()
