# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""claude-sandbox list, doctor, grants, exec and resume."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from claude_sandbox.errors import SandboxError
from claude_sandbox.host import Host
from claude_sandbox.sandboxes import Sandboxes

from . import arguments, launch

_COLOURS = {"running": "32", "dead": "31", "unreadable": "31", "works": "32", "missing": "31"}


def run(name: str, words: Sequence[str], theirs: Sequence[str]) -> int:
    """One of the commands; its exit code."""
    if name == "exec":
        return _execute(words, theirs)
    if theirs:
        arguments.listing().error("there is nothing for -- to be passed on to")
    return {"list": _list, "doctor": _doctor, "grants": _grants, "resume": _resume}[name](words)


def _execute(words: Sequence[str], theirs: Sequence[str]) -> int:
    parser = arguments.executing()
    asked = parser.parse_args(words)
    if not theirs:
        parser.error("give the command after --")
    return Sandboxes(state_dir=asked.state_dir).enter(asked.ref, theirs)


def _resume(words: Sequence[str]) -> int:
    asked = arguments.resuming().parse_args(words)
    found = Sandboxes(state_dir=asked.state_dir).resume()
    for name, outcome in found.items():
        if isinstance(outcome, SandboxError):
            print(f"{name}: {outcome.what}", *([outcome.hint] if outcome.hint else []), sep="\n  ", file=sys.stderr)
        else:
            print(f"{name}: started")
    return 1 if any(isinstance(outcome, SandboxError) for outcome in found.values()) else 0


def _list(words: Sequence[str]) -> int:
    asked = arguments.listing().parse_args(words)
    views = Sandboxes().views()
    if asked.json:
        print(json.dumps(views, indent=1))
        return 0
    rows = [_row(view) for view in views]
    if not rows:
        print("No sandbox is there. claude-sandbox makes one for the project in this directory.")
        return 0
    _print_table([("NAME", "STATUS", "BACKEND", "AGE", "PROJECT"), *rows])
    return 0


def _row(view: Mapping[str, Any]) -> tuple[str, ...]:
    made = view.get("created_at")
    return (
        view["name"],
        view["status"],
        view.get("backend", ""),
        _age(str(made)) if made else "",
        view.get("project_dir") or view.get("problem", ""),
    )


def _age(made: str) -> str:
    import datetime

    seconds = time.time() - datetime.datetime.fromisoformat(made).timestamp()
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {word}"
    return f"{max(0, int(seconds))} s"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    # A project's name may be any: what is no letter is shown as what it is.
    inert = [[_inert(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in inert) for column in range(len(inert[0]))]
    for row in inert:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(_coloured(cell) for cell in cells).rstrip())


def _inert(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell.strip())
    return f"\x1b[{colour}m{cell}\x1b[0m" if colour and _has_colours() else cell


def _has_colours() -> bool:
    environ = Host.this().environ
    return sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _doctor(words: Sequence[str]) -> int:
    asked = arguments.doctor().parse_args(words)
    found = Sandboxes().problems()
    works = {name: not problems for name, problems in found.items()}
    if asked.json:
        content = {name: [dict(each.__dict__) for each in problems] for name, problems in found.items()}
        print(json.dumps({name: {"works": works[name], "problems": content[name]} for name in found}, indent=1))
        return 0 if works["bubblewrap"] else 1
    for name, problems in found.items():
        print(f"{name.ljust(10)}  {_coloured('works' if works[name] else 'missing')}")
        for problem in problems:
            print(f"  {problem.what}\n    {problem.hint}" if problem.hint else f"  {problem.what}")
    # The one that needs nothing but a package is the one that has to be there.
    return 0 if works["bubblewrap"] else 1


def _grants(words: Sequence[str]) -> int:
    asked = arguments.grants().parse_args(words)
    engine = Sandboxes()
    project = launch.project_of(asked.project_dir)
    found = engine.preview(launch.parameters(engine.host.environ, project, asked, ()))
    if asked.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"A sandbox of {_inert(project)} ({found['backend']})")
    print(f"  reads and writes {_inert(project)}, and nothing else of your home but what is said here")
    print("  has the network" if found["network"] else "  has no network")
    for each in found["given"]:
        print(f"  {each['words']} ({each['grant']})")
        for path in each["paths"]:
            print(f"      {_inert(path)}")
    for mount in found["mounts"]:
        word = "reads and writes" if mount["mode"] == "rw" else "reads"
        print(f"  {word} {_inert(mount['source'])}, at {_inert(mount['target'])}")
    for each in found["skipped"]:
        print(f"  goes without {each['grant']}: {_inert(each['why'])}")
    for each in found["withheld"]:
        print(f"  not given: {each['words']} ({each['grant']})")
    return 0
