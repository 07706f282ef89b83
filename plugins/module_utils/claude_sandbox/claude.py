# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of Claude Code's own folder, ~/.claude. Measured with version 2.1.197."""

from __future__ import annotations

# What it obeys: instructions, hooks, permissions, code. A sandbox that could write the account's own would have its
# words carried out by the next session outside; so it reads the folders, and has copies of the files.
OBEYED_FOLDERS = ("agents", "commands", "hooks", "output-styles", "plugins", "rules", "skills")
SETTINGS = "settings.json"
OBEYED_FILES = ("CLAUDE.md", "keybindings.json")
SCRIPT_ENDINGS = (".sh", ".py", ".js", ".mjs", ".ts", ".rb", ".pl")  # of a status line, mostly
# The one file that is shared for writing. It is renewed by rename, and in place where that fails as on a mount.
CREDENTIALS = ".credentials.json"
SESSIONS = "sessions"
PROJECTS = "projects"
_ENCODED_LIMIT = 200  # characters of an encoded path before it is cut and a hash is added


def encoded(project_dir: str) -> str:
    """The name of a project's folder under ~/.claude/projects."""
    units = [
        int.from_bytes(pair, "little")
        for pair in map(bytes, zip(*[iter(project_dir.encode("utf-16-le", "surrogatepass"))] * 2, strict=True))
    ]
    name = "".join(chr(unit) if unit < 128 and chr(unit).isalnum() else "-" for unit in units)
    if len(name) <= _ENCODED_LIMIT:
        return name
    value = 0
    for unit in units:
        value = (value * 31 + unit) & 0xFFFFFFFF
    if value & 0x80000000:
        value -= 1 << 32
    return f"{name[:_ENCODED_LIMIT]}-{_base36(abs(value))}"


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
