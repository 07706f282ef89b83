# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows as a table of text that fits a terminal."""

from __future__ import annotations

DOCUMENTATION = r"""
name: table
short_description: Rows as a table of text
version_added: 0.1.0
author:
  - claude_code.nix_sandbox contributors (@claude-code)
description:
  - Makes a table with a heading of a list of mappings, no wider than asked for.
  - The columns that are widest are cut, and C(…) says where. A path is cut at its beginning.
  - What a cell says is taken for untrusted. Control characters, and those that only change how others are shown, become
    C(?), so that no cell can move the cursor, hide something or begin a line of its own.
options:
  _input:
    description: The rows.
    type: list
    elements: dict
    required: true
  columns:
    description:
      - The keys of the rows that are shown, in this order; a heading is the key in capitals.
      - A mapping gives each key its heading.
      - A column in which no row has anything is left out.
    type: raw
    required: true
  width:
    description: How many columns of the terminal the table may take.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: What runs where
  ansible.builtin.debug:
    msg: "{{ found.sandboxes | claude_code.nix_sandbox.table(['name', 'backend', 'status', 'project_dir']) }}"
"""

RETURN = r"""
_value:
  description: Lines without blanks at their ends, the first one being the heading.
  type: str
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

_GAP = 2
_NARROWEST = 6
_CUT = "…"
_NOTHING = "-"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str], width: int = 120) -> str:
    """The rows as lines of text. Raises AnsibleFilterError where they are none."""
    if isinstance(rows, str | Mapping) or not isinstance(rows, Sequence):
        raise AnsibleFilterError("table wants a list of mappings.")
    if not all(isinstance(row, Mapping) for row in rows):
        raise AnsibleFilterError("table wants a list of mappings, and one of them is not.")
    headings = columns if isinstance(columns, Mapping) else {key: key.replace("_", " ").upper() for key in columns}
    kept = [key for key in headings if not rows or any(row.get(key) not in (None, "") for row in rows)]
    lines = [[_clean(str(headings[key])) for key in kept]]
    lines += [[_cell(row.get(key)) for key in kept] for row in rows]
    widths = _fitted([max(map(_width, cells)) for cells in zip(*lines, strict=True)], int(width))
    right = [all(_is_number(row.get(key)) for row in rows) and bool(rows) for key in kept]
    return "\n".join(_line(cells, widths, right) for cells in lines)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    return _NOTHING if value in (None, "") else _clean(str(value))


def _clean(text: str) -> str:
    return "".join("?" if _is_control(each) else each for each in text)


def _is_control(character: str) -> bool:
    # Cc, Cf, Cs, Co and Cn are controls and what has no shape; Zl and Zp begin a line.
    category = unicodedata.category(character)
    return category[0] == "C" or category in ("Zl", "Zp")


def _width(text: str) -> int:
    """How many columns of a terminal it takes."""
    return sum(_columns(each) for each in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _fitted(widths: list[int], limit: int) -> list[int]:
    """The widths of columns, the widest made narrower one by one until all fit."""
    fitted = list(widths)
    while sum(fitted) + _GAP * (len(fitted) - 1) > limit and max(fitted, default=0) > _NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _cut(text: str, width: int) -> str:
    """As much of it as fits; of a path its end."""
    if _width(text) <= width:
        return text
    path = text.startswith("/")
    kept, room = "", width - 1
    for each in reversed(text) if path else text:
        room -= _columns(each)
        if room < 0:
            break
        kept = each + kept if path else kept + each
    return _CUT + kept if path else kept + _CUT


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    parts = []
    for text, width, to_the_right in zip(cells, widths, right, strict=True):
        shown = _cut(text, width)
        blank = " " * (width - _width(shown))
        parts.append(blank + shown if to_the_right else shown + blank)
    return (" " * _GAP).join(parts).rstrip()


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Each by its name."""
        return {"table": table}
