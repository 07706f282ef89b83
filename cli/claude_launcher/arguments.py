# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command line of claude-sandbox."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from claude_sandbox.spec import BACKENDS, GRANT_DEFAULTS

COMMANDS = ("list", "doctor", "grants", "exec", "resume")
_EXAMPLES = """\
examples:
  claude-sandbox                        Claude Code on the project in this directory
  claude-sandbox ~/shop -- --continue   on another one, with arguments for Claude Code
  claude-sandbox --shell                a shell in place of Claude Code
  claude-sandbox --enter                a shell beside the Claude Code that runs on this project
  claude-sandbox --no-network --no-grant ssh
  claude-sandbox --mount ~/data --mount /srv/cache:/cache:rw
  claude-sandbox -- -p 'What does this do?' < main.py
  claude-sandbox list                   what runs; also: doctor, grants, exec, resume (COMMAND --help)

A directory that is called like a command is given as ./list.

files:
  ~/.config/claude-sandbox/config.toml  what is yours: backend, network, grants, mounts, env, …
  .claude-sandbox.toml                  in a project, what that goes without: network = false, grants.ssh = false
"""
_GRANTS_HELP = f"one of: {', '.join(GRANT_DEFAULTS)}"


def launching() -> argparse.ArgumentParser:
    """What starts, joins, enters and stops the sandbox of a project."""
    parser = argparse.ArgumentParser(
        prog="claude-sandbox",
        usage=f"%(prog)s [options] [project-dir] [-- agent arguments]\n       %(prog)s {{{','.join(COMMANDS)}}} …",
        description="Run Claude Code on a project, in a sandbox.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An abbreviation that means one thing today may mean another tomorrow.
        allow_abbrev=False,
    )
    parser.add_argument("project_dir", nargs="?", default=".", metavar="project-dir", help="default: this directory")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--shell", action="store_true", help="a shell in place of Claude Code")
    kind.add_argument("--enter", action="store_true", help="a shell in the sandbox that runs on this project")
    kind.add_argument("--stop", action="store_true", help="end the sandbox that runs on this project")
    parser.add_argument("--new", action="store_true", help="another sandbox, where one runs already")
    _add_what(parser)
    parser.add_argument("--gh-token", action="store_true", help="pass on the token of the GitHub CLI, as GH_TOKEN")
    parser.add_argument("--version", action="store_true", help="show the version, and nothing else")
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    """What the sandbox is and gets."""
    parser.add_argument("--backend", choices=BACKENDS, help="how it is isolated (bubblewrap)")
    parser.add_argument("--no-network", action="store_true", help="without the network")
    parser.add_argument("--grant", action="append", default=[], metavar="G", help=f"give G, {_GRANTS_HELP}")
    parser.add_argument("--no-grant", action="append", default=[], metavar="G", help="take G away")
    parser.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="SRC[:DST][:rw]",
        help="show SRC inside, at DST; to be read, or with :rw written, too",
    )


def listing() -> argparse.ArgumentParser:
    """claude-sandbox list."""
    parser = _command("list", "Show your sandboxes, whoever made them.")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def doctor() -> argparse.ArgumentParser:
    """claude-sandbox doctor."""
    parser = _command("doctor", "Say for each backend whether it works here, or what is missing and what mends it.")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def grants() -> argparse.ArgumentParser:
    """claude-sandbox grants."""
    parser = _command("grants", "Say what a sandbox of the project would get, with the same options.")
    parser.add_argument("project_dir", nargs="?", default=".", metavar="project-dir")
    parser.add_argument("--json", action="store_true", help="for programs")
    _add_what(parser)
    return parser


def executing() -> argparse.ArgumentParser:
    """claude-sandbox exec."""
    parser = _command("exec", "Run a command in a running sandbox, with this terminal or these pipes; its exit code.")
    parser.usage = "%(prog)s [--state-dir DIR] SANDBOX -- command …"
    parser.add_argument("ref", metavar="SANDBOX", help="its name, its id, or the beginning of its id")
    parser.add_argument("--state-dir", help="the registry, where it is not your own")
    return parser


def resuming() -> argparse.ArgumentParser:
    """claude-sandbox resume."""
    parser = _command("resume", "Start again the sandboxes that ran when this host went down.")
    parser.add_argument("--state-dir", help="the registry, where it is not your own")
    return parser


def _command(name: str, about: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"claude-sandbox {name}", description=about, allow_abbrev=False)


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is for us, and what comes after --, which is for the program inside."""
    found = list(words)
    if "--" not in found:
        return found, []
    at = found.index("--")
    return found[:at], found[at + 1 :]
