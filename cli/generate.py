# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the shells' completion and the man pages of claude-sandbox, from the parsers that it has: generate.py FOLDER.

FOLDER/completions/claude-sandbox.{bash,zsh,fish}, FOLDER/man/claude-sandbox*.1
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import shtab
from argparse_manpage.manpage import Manpage  # type: ignore[import-untyped]

_CLONE = pathlib.Path(__file__).resolve().parent.parent
# As from the wheel, in which the engine has this name.
sys.path[:0] = [str(_CLONE / "cli"), str(_CLONE / "plugins/module_utils")]

from claude_launcher import arguments  # noqa: E402
from claude_sandbox.spec import GRANT_DEFAULTS  # noqa: E402

_NAME = "claude-sandbox"
_ALIASES = (f"{_NAME}-container", f"{_NAME}-vm")
_SHELLS = ("bash", "zsh", "fish")
_PARSERS = {
    "list": arguments.listing,
    "doctor": arguments.doctor,
    "grants": arguments.grants,
    "exec": arguments.executing,
    "resume": arguments.resuming,
}
_PATHS = {"project_dir": shtab.DIRECTORY, "state_dir": shtab.DIRECTORY, "mount": shtab.FILE}
_FUNCTION = "_shtab_claude_sandbox"
_OF_GRANTS = ("grant", "no_grant")


def main(folder: pathlib.Path) -> None:
    """Write all of them."""
    for name in ("completions", "man"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for shell in _SHELLS:
        (folder / f"completions/{_NAME}.{shell}").write_text(_completion(shell), encoding="utf-8")
    for name, parser in (("", arguments.launching), *_PARSERS.items()):
        page = "-".join(filter(None, (_NAME, name)))
        (folder / f"man/{page}.1").write_text(_manual(parser()), encoding="utf-8")
    for alias in _ALIASES:
        (folder / f"man/{alias}.1").write_text(f".so man1/{_NAME}.1\n", encoding="utf-8")


def _completion(shell: str) -> str:
    """For one shell, and all three names of the command.

    At its first place a command or a directory can stand: shtab knows one or the other, and gets the second told.
    """
    content, aliases = f"{shtab.complete(_whole(), shell)}\n", " ".join(_ALIASES)
    if shell == "bash":
        content += f"{_FUNCTION}_pos_0_COMPGEN=_shtab_compgen_dirs\n"
        return content + f"complete -o bashdefault -F {_FUNCTION} {aliases}\n"
    if shell == "zsh":
        commands = f"_describe '{_NAME} commands' _commands\n"
        return _replaced(_replaced(content, commands, f"{commands}  _files -/\n"), _NAME, f"{_NAME} {aliases}")
    first = f"'{_FUNCTION}_using; and test ${_FUNCTION}_npos -eq 0'"
    content += f'complete -c {_NAME} -n {first} -ka "(__fish_complete_directories)" -d project-dir\n'
    return content + "".join(f"complete -c {alias} -w {_NAME}\n" for alias in _ALIASES)


def _replaced(text: str, old: str, new: str) -> str:
    """With the first of them replaced, which has to be there."""
    if old not in text:
        raise ValueError(f"shtab writes {old!r} no more")
    return text.replace(old, new, 1)


def _whole() -> argparse.ArgumentParser:
    """One parser for what are several, as shtab knows them: a project, or a command with its own options."""
    parser = arguments.launching()
    parser._actions[:] = [action for action in parser._actions if action.dest != "project_dir"]
    commands = parser.add_subparsers(dest="command")
    for name, make in _PARSERS.items():
        told = make()
        below = commands.add_parser(name, help=told.description, description=told.description, add_help=False)
        for action in told._actions:
            below._add_action(action)
    for each in (parser, *commands.choices.values()):
        for action in each._actions:
            _explain(action)
    return parser


def _explain(action: argparse.Action) -> None:
    """Say what an option's value can be, where the parser itself says it in words alone."""
    if action.dest in _PATHS:
        # Its colons and brackets would have a meaning for zsh.
        action.metavar = "path"
        action.complete = _PATHS[action.dest]  # type: ignore[attr-defined]
    if action.dest in _OF_GRANTS:
        action.choices = tuple(GRANT_DEFAULTS)


def _manual(parser: argparse.ArgumentParser) -> str:
    facts = {"project_name": _NAME, "manual_title": "Claude Code in a sandbox", "description": parser.description}
    content = str(Manpage(parser, facts))
    # Examples are lines, and no text to be filled; the second line of the usage is one, too.
    content = content.replace(".SH COMMENTS\n", ".SH EXAMPLES\n.nf\n")
    return content.replace(f" {_NAME} {{", f"\n.br\n.B {_NAME}\n{{")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else _CLONE / "build"))
