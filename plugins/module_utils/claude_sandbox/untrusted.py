# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Text that an agent has written, as it may be put into results, be shown on a terminal, and stand in messages."""

from __future__ import annotations

_LINE_LIMIT = 300  # characters of the agent's words in a message


def well_formed(text: str) -> str:
    """Text without halves of characters, which no result of Ansible's may have."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def visible(text: str) -> str:
    """Text that does nothing to a terminal: what is neither printed nor an end of line or a tab is written out."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text
    )


def line(text: str) -> str:
    """The agent's words as they may stand in a message: on one line, of bounded length."""
    words = visible(" ".join(well_formed(text[: _LINE_LIMIT * 4]).split()))
    return words if len(words) <= _LINE_LIMIT else f"{words[:_LINE_LIMIT]}…"
