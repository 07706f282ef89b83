# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Text for terminals. What others wrote is shown inert: nothing in it moves the cursor or changes what is there."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

_COLOURS = {"running": "32", "dead": "31", "unreadable": "31", "stopped": "2", "head": "1"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def inert(text: object) -> str:
    """The text in one line, each character that is not printed as its escape; a tab is a space."""
    plain = str(text).replace("\t", " ")
    if plain.isprintable():
        return plain
    return "".join(each if each.isprintable() else _escaped(each) for each in plain)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def has_colours(stream: TextIO) -> bool:
    """Whether what is written there may be coloured: a person's terminal, who has not asked for none (NO_COLOR)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def coloured(text: str, kind: str) -> str:
    """The text in the colour of a kind, on terminals that are to have some."""
    code = _COLOURS.get(kind)
    return f"\x1b[{code}m{text}\x1b[0m" if code and has_colours(sys.stdout) else text


def table(head: Sequence[str], rows: Sequence[Sequence[object]], kinds: Sequence[str] = ()) -> str:
    """Rows below a head, aligned. kinds: of each row, for the colour of its first column."""
    cells = [[inert("" if cell is None else cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [coloured(_line(head, widths), "head")]
    for number, row in enumerate(cells):
        first = coloured(row[0], kinds[number]) if kinds else row[0]
        lines.append(first + _line(row, widths)[len(row[0]) :])
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def age(moment: Any, now: float) -> str:
    """How long ago that was (ISO 8601), as people say it, or a dash. now: seconds since the epoch."""
    import datetime

    try:
        then = datetime.datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError, OverflowError):
        return "-"
    return span(now - then)


def span(seconds: float) -> str:
    """A time as people say it; none is below zero, for clocks differ."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min."
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} h"
    return f"{whole // _DAY} days"


def size(number: Any) -> str:
    """Bytes as people say them, in units of 1024."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return "-"
    left, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if left < 1024 or unit == "TiB":
            break
        left /= 1024
    return f"{left:.0f} {unit}" if left >= 10 or unit == "B" else f"{left:.1f} {unit}"


def out(text: str) -> None:
    """A line, or lines, of what the command is asked for."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def out_json(content: object) -> None:
    """The same for programs: JSON, in which control characters are escapes."""
    import json

    out(json.dumps(content, indent=2))


def say(text: str) -> None:
    """A line to the person, beside what the command is asked for."""
    sys.stderr.write(f"claude-remote: {text}\n")
    sys.stderr.flush()


def ask(question: str) -> bool:
    """Whether the person says yes. To be called only where one is there: see `is_person`."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_person() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Progress:
    """A line that says what is waited for, and for how long; on a terminal alone."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._wrote = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._wrote:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def at(self, seconds: float) -> None:
        """Show how long it has taken, in seconds."""
        if self._shown:
            self._wrote = True
            sys.stderr.write(f"\r\x1b[K{self._what} … {span(seconds)}")
            sys.stderr.flush()
