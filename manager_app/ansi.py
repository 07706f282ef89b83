# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Terminal output as text and as HTML. A sandbox writes it: nothing in it may act, and none of it may cost much."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

from markupsafe import Markup, escape

_LINES = 500
_SIZES = range(4, 404, 4)  # columns for which the style sheet has a size of text

# No two parts of an alternative can match the same character, so that a match never goes back. Strings (OSC, DCS, …)
# that are not ended end with their line: what comes after it is shown, and not swallowed.
_SEQUENCE = re.compile(
    r"""
      (?: \x1b\[ | \x9b ) (?P<parameters> [0-?]* ) [ -/]* (?P<final> [@-~]? )
    | (?: \x1b[\]PX^_] | [\x90\x98\x9d-\x9f] ) [^\x07\x1b\x9c\n]* (?: \x07 | \x1b\\ | \x9c )?
    | \x1b [ -/]* [0-~]?
    """,
    re.VERBOSE,
)
# What is left then of control characters, what turns the direction of text, and halves of characters, which no answer
# in UTF-8 can hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_REMEMBERED = 40  # characters of a sequence; those in use have fewer
_STEPS = re.compile(r"[0-9]{1,4}\Z")
_WIDEST = 80  # columns that a step leaves at most: a few bytes ask for them
_SGR = re.compile(r"[0-9;:]*\Z")

_BASE = (
    *("282c34", "e06c75", "98c379", "e5c07b", "61afef", "c678dd", "56b6c2", "c8ccd4"),
    *("7f8694", "ff7b86", "b5e08f", "ffd98f", "82c4ff", "dd94f2", "77d5e0", "ffffff"),
)
_GREYISH = 24  # how far the parts of a colour may differ that may be taken for a grey
_CUBE = (0, 95, 135, 175, 215, 255)
_STYLES = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 9: "strike"}
_RESETS = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 29: ("strike",)}


def plain(text: str) -> str:
    """The text as it would be read: without any sequence or control character, and without what was overwritten."""
    clean = _UNPRINTABLE.sub("", _SEQUENCE.sub(_room, text))
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in clean.split("\n"))


def _room(sequence: re.Match[str]) -> str:
    """What a sequence leaves in plain text: spaces for a step to the right, which Claude Code takes between words."""
    digits = sequence["parameters"]
    if sequence["final"] != "C" or not (digits == "" or _STEPS.match(digits)):
        return ""
    return " " * min(int(digits or 1) or 1, _WIDEST)


def html(text: str, columns: int) -> Markup:
    """The text as lines of HTML in its colours, with classes of `stylesheet`; no more of it than a terminal shows."""
    style = _Style()
    lines = []
    for line in text.split("\n", _LINES)[:_LINES]:
        runs, style = _runs(line.rstrip("\r").rpartition("\r")[2], style, columns * 2)
        lines.append("".join(runs))
    return Markup("\n".join(lines))  # noqa: S704 - made of escaped runs


def size_class(columns: int) -> str:
    """The class by which so many columns are as wide as what they stand in."""
    return f"columns-{min(max(-(-columns // 4) * 4, _SIZES[0]), _SIZES[-1])}"


def stylesheet() -> str:
    """The style sheet for `html` and `size_class`, which static/ansi.css holds."""
    colours = [f"#{colour}" for colour in _BASE] + [_hex(number) for number in range(16, 256)]
    lines = ["/* Made by `python -m manager_app.ansi`. */"]
    lines += [f".fg-{number} {{ color: {colour}; }}" for number, colour in enumerate(colours)]
    lines += [f".bg-{number} {{ background-color: {colour}; }}" for number, colour in enumerate(colours)]
    # A column of a monospaced font is about 0.6 of its size wide.
    lines += [f".columns-{each} {{ font-size: {100 / each / 0.605:.3f}cqi; }}" for each in _SIZES]
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class _Style:
    """How text looks. Colours are numbers of the 256, or None for the terminal's own."""

    foreground: int | None = None
    background: int | None = None
    inverse: bool = False
    words: frozenset[str] = frozenset()

    @functools.cached_property
    def classes(self) -> str:
        """The classes of an element with such text."""
        fore = f"fg-{self.foreground}" if self.foreground is not None else ""
        back = f"bg-{self.background}" if self.background is not None else ""
        if self.inverse:
            # What has no colour of its own takes the terminal's, which the two exchange.
            fore = f"fg-{self.background}" if self.background is not None else "fg-own"
            back = f"bg-{self.foreground}" if self.foreground is not None else "bg-own"
        return " ".join(filter(None, (fore, back, *sorted(self.words))))


def _runs(line: str, style: _Style, limit: int) -> tuple[list[str], _Style]:
    """A line's pieces of one look each, of so many characters in all, and the style after it."""
    runs: list[str] = []
    for piece, after in _pieces(line, style):
        shown = _UNPRINTABLE.sub("", piece)[:limit].replace("\r", "")
        limit -= len(shown)
        if shown:
            runs.append(_run(shown, style))
        style = after
    return runs, style


def _pieces(line: str, style: _Style) -> Iterator[tuple[str, _Style]]:
    """The text between sequences, each piece with the style that holds after it."""
    at = 0
    for match in _SEQUENCE.finditer(line):
        text, at = line[at : match.start()], match.end()
        if match["final"] == "m" and _SGR.match(match["parameters"]):
            parameters = match["parameters"]
            # What is remembered has a bounded length.
            style = (_remembered if len(parameters) <= _REMEMBERED else _restyled)(style, parameters)
        yield text, style
    yield line[at:], style


def _run(text: str, style: _Style) -> str:
    classes = style.classes
    return f'<span class="{classes}">{escape(text)}</span>' if classes else str(escape(text))


def _restyled(style: _Style, parameters: str) -> _Style:
    """The style after one SGR sequence."""
    todo = [_numbers(group) for group in parameters.split(";")]
    at = 0
    while at < len(todo):
        group = todo[at]
        at += 1
        if group[0] in (38, 48, 58):
            # 38:5:1 is one parameter, 38;5;1 are three.
            used = [] if len(group) > 1 else [each[0] for each in todo[at : at + 4]]
            colour, length = _colour(group[1:] if len(group) > 1 else used)
            at += length if len(group) == 1 else 0
            style = _coloured(style, group[0], colour)
        else:
            style = _simple(style, group)
    return style


_remembered = functools.lru_cache(4096)(_restyled)


def _numbers(group: str) -> list[int]:
    """The numbers of a parameter; -1 for those that mean nothing. A number can have any length."""
    return [int(word or 0) if len(word) <= 3 else -1 for word in group.split(":", 8)[:8]]


def _colour(words: list[int]) -> tuple[int | None, int]:
    """The colour that `5;n` or `2;r;g;b` mean, if they do, and how many of the words were used."""
    if words[:1] == [5]:
        number = words[1] if len(words) > 1 else -1
        return (number if 0 <= number <= 255 else None), 2
    if words[:1] == [2]:
        # 2::r:g:b names a colour space, too.
        red_green_blue = words[2:5] if len(words) > 4 else words[1:4]
        valid = len(red_green_blue) == 3 and all(0 <= each <= 255 for each in red_green_blue)
        return (_nearest(*red_green_blue) if valid else None), 4
    return None, 1


def _coloured(style: _Style, code: int, colour: int | None) -> _Style:
    if colour is None or code == 58:
        return style
    if code == 38:
        return dataclasses.replace(style, foreground=colour)
    return dataclasses.replace(style, background=colour)


def _simple(style: _Style, group: list[int]) -> _Style:
    code = group[0]
    if code == 0:
        return _Style()
    if code in (7, 27):
        return dataclasses.replace(style, inverse=code == 7)
    if code in _RESETS or group[:2] == [4, 0]:
        return dataclasses.replace(style, words=style.words.difference(_RESETS.get(code, ("underline",))))
    if code in _STYLES:
        return dataclasses.replace(style, words=style.words | {_STYLES[code]})
    for first, bright in ((30, 0), (90, 8)):
        if first <= code < first + 8:
            return dataclasses.replace(style, foreground=code - first + bright)
        if first + 10 <= code < first + 18:
            return dataclasses.replace(style, background=code - first - 10 + bright)
    if code == 39:
        return dataclasses.replace(style, foreground=None)
    if code == 49:
        return dataclasses.replace(style, background=None)
    return style


@functools.lru_cache(4096)
def _nearest(red: int, green: int, blue: int) -> int:
    """The one of the colours 16 to 255 that is nearest to this one."""
    wanted = (red, green, blue)
    steps = [min(range(6), key=lambda step: abs(_CUBE[step] - part)) for part in wanted]
    grey = min(max((sum(wanted) // 3 - 8 + 5) // 10, 0), 23)
    coloured = 16 + 36 * steps[0] + 6 * steps[1] + steps[2]
    if max(wanted) - min(wanted) > _GREYISH:
        # A dark green is nearer to a grey than to any green, but green is what it means.
        return coloured
    return min((coloured, 232 + grey), key=lambda number: _distance(_parts(number), wanted))


def _distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _parts(number: int) -> tuple[int, int, int]:
    """Red, green and blue of one of the colours 16 to 255."""
    if number >= 232:
        level = 8 + 10 * (number - 232)
        return level, level, level
    number -= 16
    return _CUBE[number // 36], _CUBE[number // 6 % 6], _CUBE[number % 6]


def _hex(number: int) -> str:
    return "#" + "".join(f"{part:02x}" for part in _parts(number))


if __name__ == "__main__":
    print(stylesheet(), end="")  # noqa: T201 - its output is its purpose
