# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of Claude Code's own folder, ~/.claude. Measured with version 2.1.197."""

from __future__ import annotations

# What it obeys: instructions, hooks, permissions, code. A sandbox that could write them would have its words
# carried out by the next session outside.
OBEYED_FILES = ("CLAUDE.md", "settings.json")
OBEYED_FOLDERS = ("agents", "commands", "hooks", "output-styles", "plugins", "rules", "skills")
# Obeyed too, but only where it is there: scripts of a status line, an installation of the program itself.
OBEYED_ENDINGS = (".sh", ".py", ".js", ".mjs", ".ts", ".rb", ".pl")
OBEYED_WHERE_THERE = ("local",)
# What a session keeps for itself while it runs. A session outside executes its shell snapshot with every command,
# and finds its files by a pid that every sandbox has too: each project has its own.
OWN_FOLDERS = ("backups", "file-history", "ide", "jobs", "plans", "session-env", "shell-snapshots", "tasks", "teams")
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
