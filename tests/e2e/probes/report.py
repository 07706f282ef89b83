"""What came out, as a table for people: docs/isolation.md shows it."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HELD, REACHED, DESIGN, SHOWN, NOT_SHOWN = "held", "**REACHED**", "open by design", "shown", "**not shown**"
COLUMNS = ("network on", "network off", "outside", "without it")
_SWITCHES = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
    "kernel/yama/ptrace_scope",
    "kernel/dmesg_restrict",
    "kernel/kptr_restrict",
    "kernel/unprivileged_bpf_disabled",
    "kernel/io_uring_disabled",
    "kernel/perf_event_paranoid",
    "dev/tty/legacy_tiocsti",
    "fs/protected_symlinks",
    "fs/protected_hardlinks",
    "fs/suid_dumpable",
    "net/ipv4/ping_group_range",
    "vm/unprivileged_userfaultfd",
)
_VERSIONS = (
    ("bwrap", "--version"),
    ("systemd-nspawn", "--version"),
    ("qemu-system-x86_64", "--version"),
    ("tmux", "-V"),
)


@dataclasses.dataclass
class Row:
    """One probe, for one kind of owner."""

    number: int | None
    words: str
    cells: dict[str, str] = dataclasses.field(default_factory=dict)


class Report:
    """The rows in the order of their first result."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._rows: dict[str, Row] = {}

    def note(self, key: str, number: int | None, words: str, column: str, result: str) -> None:
        """Put down a result. A worse one, as of a second try, is not overwritten by a better one."""
        row = self._rows.setdefault(key, Row(number, words))
        row.words = row.words or words
        if row.cells.get(column) not in (REACHED, NOT_SHOWN):
            row.cells[column] = result

    @contextmanager
    def scenario(self, key: str, number: int | None, words: str, column: str = "network on") -> Iterator[None]:
        """A test that is a story of its own: `held`, unless it fails or is skipped."""
        try:
            yield
        except pytest.skip.Exception as skipped:
            self.note(key, number, words, column, f"skipped: {skipped.msg}")
            raise
        except BaseException:
            self.note(key, number, words, column, REACHED)
            raise
        self.note(key, number, words, column, HELD)

    def covers(self, keys: set[str]) -> bool:
        """Whether there is a row for each."""
        return keys <= set(self._rows)

    def markdown(self) -> str:
        """The table, the reasons of what was skipped, and the machine."""
        reasons: dict[str, int] = {}
        lines = [f"# Probes of the backend {self._backend}", ""]
        lines += [*_legend(), "", f"| # | probe | {' | '.join(COLUMNS)} |", f"|---|---|{'---|' * len(COLUMNS)}"]
        for key, row in self._rows.items():
            cells = [_shown(row.cells.get(column, "–"), reasons) for column in COLUMNS]
            lines.append(f"| {row.number or ''} | **{key}**: {row.words} | {' | '.join(cells)} |")
        if reasons:
            lines += ["", "Skipped, because:", ""]
            lines += [f"{number}. {reason}" for reason, number in reasons.items()]
        return "\n".join([*lines, "", "## The machine", "", *_machine(), ""])

    def write(self, path: Path) -> None:
        """Write it, and make the folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.markdown(), encoding="utf-8")


def _legend() -> list[str]:
    return [
        f"`{HELD}`: nothing arrived at the target. `{DESIGN}`: that is what the grant gives. {REACHED}: a hole.",
        "Outside: the same code reaches its target on the host. Without it: and in a sandbox whose protection is",
        "taken away, or to which the thing is granted. A dash: one story, told once.",
    ]


def _shown(result: str, reasons: dict[str, int]) -> str:
    word, separator, reason = result.partition(": ")
    if not separator:
        return result
    return f"{word} ({reasons.setdefault(reason, len(reasons) + 1)})"


def _machine() -> Iterator[str]:
    yield f"- kernel {platform.release()} {platform.machine()}"
    for argv in _VERSIONS:
        if shutil.which(argv[0]):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            yield f"- {done.stdout.splitlines()[0]}"
    for name in _SWITCHES:
        path = Path("/proc/sys") / name
        yield f"- {name.replace('/', '.')} = {path.read_text().strip() if path.exists() else 'absent'}"


def destination(backend: str) -> Path:
    """Where the table goes: PROBES_REPORT_DIR names a folder, else .cache/probes."""
    folder = os.environ.get("PROBES_REPORT_DIR") or Path(__file__).parents[3] / ".cache/probes"
    return Path(folder) / f"{backend}.md"
