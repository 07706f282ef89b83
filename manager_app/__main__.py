# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""claude-sandbox-manager: runs the manager, and makes what it needs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from claude_sandbox import prices
from claude_sandbox.errors import SandboxError

from . import config, logs
from .app import version
from .server import Server

_ENVIRONMENT = """\
environment:
  MANAGER_LISTEN      ADDRESS:PORT (127.0.0.1:3000)
  MANAGER_STATE_DIR   the registry of sandboxes (root: /var/lib/claude-manager, others: ~/.local/state/claude-sandbox)
  MANAGER_TOKEN_FILE  a file with the token that callers have to show; needed off loopback
  MANAGER_HOSTS       more names by which browsers may call it
  MANAGER_STATIC_DIR  the libraries that pages load
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="claude-sandbox-manager",
        description="A dashboard and a REST API over the sandboxes of this host.",
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="run the manager (also without a command)")
    maker = commands.add_parser("new-token", help="make a file with a new token")
    maker.add_argument("file", metavar="FILE")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "new-token":
            config.new_token(asked.file)
        else:
            configuration = config.from_environ(os.environ)
            # Better told now than by figures that are not there.
            prices.load(configuration.state_dir)
            logs.set_up()
            Server(configuration).run()
    except SandboxError as error:
        print(f"claude-sandbox-manager: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
