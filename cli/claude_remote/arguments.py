# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command line: what can be typed, and the help that teaches it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TypeAlias

from . import __version__

_ABOUT = """\
Sandboxes in which Claude Code works on a server, from this machine, over SSH alone.

  export CLAUDE_REMOTE_HOST=alice@server        # or --host, or ~/.config/claude-remote/config
  claude-remote create webshop bubblewrap /srv/webshop
  claude-remote attach webshop                  # C-b d leaves; the agent goes on
"""
_MORE = """\
A sandbox is named by its name, its id, or the beginning of its id.

environment:
  CLAUDE_REMOTE_HOST       the server, as ssh takes it: alice@server
  CLAUDE_REMOTE_PORT       the manager's port there (3000)
  CLAUDE_REMOTE_SSH_OPTS   words for ssh: -p 2222 -i ~/.ssh/work
  NO_COLOR                 no colours

settings, in ~/.config/claude-remote/config:
  [hosts.work]
  host = "alice@server"
  port = 3000
  ssh_opts = ["-p", "2222"]
  token_file = "~/manager.token"     # on the server
  default = true

exit codes:
  0 done   1 refused or failed   2 wrong usage   3 not found   4 ambiguous   5 no connection   6 token   130 Ctrl-C
"""
_GRANTS = "claude, git, ssh, gh, display, audio, gpu, dbus, keyring, ssh_agent, nix, locale"


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    made = argparse.ArgumentParser(
        "claude-remote", description=_ABOUT, epilog=_MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--version", action="version", version=f"claude-remote {__version__}")
    made.add_argument("--host", help="a host of the settings, or a server as ssh takes it")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_create, _add_looking, _add_changing, _add_terminal, _add_transfer, _add_others):
        add(commands)
    return made


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: _Commands, name: str, about: str, examples: str, json: bool = False, ref: str | None = None
) -> argparse.ArgumentParser:
    lines = "\n".join(f"  claude-remote {line}" for line in examples.strip().splitlines())
    made = commands.add_parser(
        name,
        help=about[0].lower() + about[1:],
        description=f"{about}.",
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Not to undo what stands before the command.
    made.add_argument("--host", default=argparse.SUPPRESS, help="a host of the settings, or a server as ssh takes it")
    if json:
        made.add_argument("--json", action="store_true", help="for programs")
    if ref is not None:
        made.add_argument("ref", metavar="ID", nargs=ref or None, help="name, id, or the beginning of an id")
    return made


def _add_create(commands: _Commands) -> None:
    made = _command(
        commands,
        "create",
        "Make a sandbox and start it",
        """\
create webshop bubblewrap /srv/webshop
create webshop container ~/webshop --sync .               # bring this directory there first
create lab vm /srv/lab --memory 4096 --no-network
create webshop bubblewrap /srv/webshop --api-key-env ANTHROPIC_API_KEY
create webshop bubblewrap /srv/webshop --no-grant ssh --grant audio --agent-arg=--model --agent-arg=opus""",
        json=True,
    )
    made.add_argument("name", metavar="NAME", help="letters, digits, - and _")
    made.add_argument("backend", metavar="BACKEND", choices=("bubblewrap", "container", "vm"), help="%(choices)s")
    made.add_argument(
        "project_dir", metavar="PROJECT_DIR", help="on the server; what begins with no / is in the home there"
    )
    made.add_argument("--sync", metavar="LOCAL_DIR", help="bring this directory of this machine to PROJECT_DIR first")
    made.add_argument("--no-network", action="store_true", help="without the network")
    made.add_argument("--user", help="the account that it runs as; the project's owner by default")
    grant = {"action": "append", "default": [], "metavar": "GRANT"}
    made.add_argument("--grant", **grant, help=f"give it one of: {_GRANTS}")  # type: ignore[arg-type]
    made.add_argument("--no-grant", **grant, help="take one away")  # type: ignore[arg-type]
    made.add_argument(
        "--mount", action="append", default=[], metavar="/SOURCE[:/TARGET][:rw]", help="a path of the server"
    )
    made.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the agent; no secrets")
    made.add_argument(
        "--secret-env", action="append", default=[], metavar="VAR", help="a variable of this shell, as a secret"
    )
    made.add_argument(
        "--agent", action="append", default=[], metavar="WORD", help="claude, shell, or a program, word by word"
    )
    made.add_argument(
        "--agent-arg", action="append", default=[], metavar="ARG", help="for the agent; --agent-arg=--model"
    )
    key = made.add_mutually_exclusive_group()
    key.add_argument("--api-key-env", metavar="VAR", help="the variable of this shell that holds the agent's API key")
    key.add_argument("--api-key-stdin", action="store_true", help="read the API key from the standard input")
    made.add_argument("--toolchain", choices=("auto", "host", "nix", "rootfs"), help="where its programs come from")
    made.add_argument("--geometry", metavar="WIDTHxHEIGHT", help="of its screen (1920x1080)")
    made.add_argument("--resume", action="store_true", help="go on with the last conversation when it is started again")
    made.add_argument("--memory", type=int, metavar="MIB", help="of a virtual machine")
    made.add_argument("--cpus", type=int, help="of a virtual machine")
    made.add_argument(
        "--on-change", choices=("fail", "restart", "ignore"), help="what to do where it is there already and differs"
    )


def _add_looking(commands: _Commands) -> None:
    made = _command(commands, "list", "List sandboxes", "list\nlist --json\nlist --all-hosts", json=True)
    made.add_argument("--all-hosts", action="store_true", help="of all hosts of the settings")
    made = _command(
        commands, "logs", "Show what a sandbox's terminal was sent", "logs webshop\nlogs webshop -f --tail 20", True, ""
    )
    made.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    made.add_argument(
        "--tail", type=int, default=100, metavar="N", help="of the lines that are there, the last N (100)"
    )
    made = _command(
        commands,
        "metrics",
        "Show what sandboxes use: processor, memory, tokens",
        "metrics\nmetrics webshop --json\nmetrics --all-hosts",
        json=True,
        ref="?",
    )
    made.add_argument("--all-hosts", action="store_true", help="of all hosts of the settings")
    made = _command(
        commands,
        "screenshot",
        "Take a picture of a sandbox's screen",
        "screenshot webshop\nscreenshot webshop -o now.png --width 960\nscreenshot webshop -o - | display",
        ref="",
    )
    made.add_argument(
        "-o", "--output", metavar="FILE", help="NAME.png by default; .jpg or .webp chooses that; - for a pipe"
    )
    made.add_argument("--width", type=int, metavar="PIXELS", help="make it this wide")


def _add_changing(commands: _Commands) -> None:
    _command(commands, "stop", "Stop a sandbox; it can be started again", "stop webshop\nstop 22f4", True, "")
    _command(commands, "start", "Start a sandbox that is stopped or dead", "start webshop", True, "")
    made = _command(
        commands,
        "delete",
        "Stop a sandbox and remove it; its project is never touched",
        "delete webshop\ndelete webshop --purge",
        json=True,
        ref="",
    )
    made.add_argument(
        "--purge", action="store_true", help="what the project keeps, too: ~/.local, ~/.cache, browser profile"
    )


def _add_terminal(commands: _Commands) -> None:
    _command(
        commands,
        "attach",
        "Show a sandbox's terminal in this one; C-b d leaves, the agent goes on",
        "attach webshop\nattach 22f4",
        ref="",
    )
    made = _command(
        commands,
        "exec",
        "Run a command in a sandbox, beside its agent; the exit code is the command's",
        """\
exec webshop -- git status
exec webshop -- sh -c 'make test 2>&1 | tail'
exec webshop -- tar c . > webshop.tar""",
        ref="",
    )
    made.add_argument("words", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="the command and its arguments")


def _add_transfer(commands: _Commands) -> None:
    made = _command(
        commands,
        "sync",
        "Bring a directory of this machine to the server (rsync)",
        """\
sync webshop                          # to the project of the sandbox webshop, else ~/webshop
sync . /srv/webshop --gitignore
sync . /srv/webshop --delete --dry-run""",
    )
    _add_directories(made)
    made.add_argument("--gitignore", action="store_true", help="leave out what .gitignore names")
    made.add_argument("--delete", action="store_true", help="delete there what is not here, after a question")
    made.add_argument("--yes", action="store_true", help="no question")
    made.add_argument("--dry-run", action="store_true", help="say what would be done")
    made = _command(
        commands,
        "watch",
        "Keep a directory here and one on the server the same, until Ctrl-C (Unison)",
        """\
watch webshop                         # with the project of the sandbox webshop, else ~/webshop
watch . /srv/webshop --ignore node_modules --ignore '*.o'
watch . /srv/webshop --once           # exit code 1 where there are conflicts
watch . /srv/webshop --settle notes.txt --keep local""",
    )
    made.description = f"{made.description}\n\nWhat was changed on both sides stays as it is on both, and is named."
    _add_directories(made)
    made.add_argument(
        "--ignore", action="append", default=[], metavar="NAME", help="leave out files of this name; * and ? work"
    )
    made.add_argument("--once", action="store_true", help="make them the same now, then end")
    made.add_argument("--settle", metavar="PATH", help="end a conflict; the path is as it was named")
    made.add_argument(
        "--keep", choices=("local", "remote"), help="whose version stays; the other is kept as a copy beside it"
    )


def _add_directories(made: argparse.ArgumentParser) -> None:
    made.add_argument("dir", metavar="DIR", help="of this machine")
    made.add_argument(
        "remote", metavar="REMOTE", nargs="?", help="of the server; what begins with no / is in the home there"
    )


def _add_others(commands: _Commands) -> None:
    made = _command(
        commands, "ui", "Open the server's dashboard in the browser here", "ui\nui --no-browser --port 8080"
    )
    made.add_argument("--port", type=int, help="of this machine; a free one by default")
    made.add_argument("--no-browser", action="store_true", help="only print the address")
    _command(
        commands,
        "disconnect",
        "End the connection that commands share; by itself it ends after ten minutes",
        "disconnect\ndisconnect --host work",
    )
    made = _command(
        commands,
        "completion",
        "Print what completes commands in a shell (needs shtab)",
        "completion bash > ~/.local/share/bash-completion/completions/claude-remote",
    )
    made.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What was typed. Ends the program where that is no command (SystemExit, 2)."""
    made = parser()
    found = made.parse_args(words)
    if found.command == "exec":
        # argparse takes out more than one --, and the command may have its own.
        before, mark, after = _cut(words)
        found.words = list(after) if mark else found.words
        if not found.words:
            made.error("exec: no command is given; write: claude-remote exec ID -- COMMAND")
        if mark and len(made.parse_args(before).words) > 0:
            made.error("exec: write -- before the command")
    return found


def _cut(words: Sequence[str]) -> tuple[Sequence[str], bool, Sequence[str]]:
    if "--" not in words:
        return words, False, ()
    place = list(words).index("--")
    return words[:place], True, words[place + 1 :]
