# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the pages show of a sandbox, and which of them changed since somebody looked."""

from __future__ import annotations

import dataclasses
import math
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from claude_sandbox.grants import TABLE
from claude_sandbox.spec import BACKENDS

from . import ansi
from .watch import Process, Seen, Terminal

TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
STATUSES = ("running", "stopped", "dead", "unreadable")
SORTS = ("waiting", "name", "age", "tokens", "cpu")
_DOING = {
    "start": "starting",
    "stop": "stopping",
    "restart": "restarting",
    "create": "being made",
    "ensure": "changing",
    "delete": "being deleted",
    "destroy": "being deleted",
}
_DETAILS = {
    "id": "id",
    "pid": "pid",
    "pid_xvfb": "pid of the X server",
    "display_num": "display",
    "accelerator": "accelerator",
    "toolchain": "programs",
    "tmux_socket": "socket of tmux",
    "qemu_qmp_socket": "monitor of QEMU",
    "log": "log",
    "folder": "folder",
}
_ACTIVITIES = ("idle", "busy", "waiting")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_MOST_BARS = 120
_TEXT_LIMIT = 2000  # characters of any one text that a page shows


@dataclasses.dataclass(frozen=True)
class Mount:
    """Something more of the host that a sandbox sees."""

    source: str
    target: str
    mode: str


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What an agent used, or a model of it."""

    name: str
    messages: int
    counts: tuple[int, ...]  # in the order of TOKENS

    @property
    def total(self) -> int:
        """All kinds of tokens."""
        return sum(self.counts)


@dataclasses.dataclass(frozen=True)
class Usage:
    """An agent's tokens and what they cost. usd: an estimate, at least. pending: bytes that are still to be read."""

    all: Tokens
    models: tuple[Tokens, ...]
    tool_uses: int
    complete: bool
    pending: int
    usd: float
    as_of: str
    unpriced: tuple[str, ...]
    history: tuple[tuple[int, tuple[int, ...]], ...]  # when a span of time begins, and its counts

    @classmethod
    def of(cls, usage: Mapping[str, Any]) -> Usage:
        """The usage that the engine shows."""
        cost = usage.get("cost") or {}
        return cls(
            _tokens("all", usage),
            tuple(_tokens(model, counts) for model, counts in usage.get("by_model", {}).items()),
            usage.get("tool_uses", 0),
            usage.get("complete", True),
            usage.get("pending", 0),
            cost.get("usd", 0.0),
            cost.get("as_of", ""),
            tuple(inert(model) for model in cost.get("unpriced", ())),
            tuple((each["at"], _counts(each)) for each in usage.get("history", ())),
        )


@dataclasses.dataclass(frozen=True)
class Card:
    """A sandbox as pages show it. Every text is inert: what of it came from inside has no control characters.

    state: one word for what is the matter with it, of which there is a symbol. doing: the same in words.
    """

    key: str
    ref: str
    name: str
    status: str
    state: str
    doing: str
    job: str | None
    waiting_for: str
    backend: str
    project_dir: str
    user: str
    problem: str
    created_at: str
    started_at: str
    stopped_at: str
    exit_code: int | None
    reason: str
    network: bool
    agent: str
    geometry: str
    attach_command: str
    details: tuple[tuple[str, str], ...]
    given: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    process: Process | None
    usage: Usage | None
    terminal: Terminal | None
    frame: str | None

    @classmethod
    def of(cls, seen: Seen) -> Card:
        """What there is to show of what was seen."""
        view = seen.view
        state, doing = _state(seen)
        return cls(
            # Names are unique, and the records of some cannot be read for an id.
            key=f"card-{inert(view['name'])}",
            ref=inert(view.get("id") or view["name"]),
            name=inert(view["name"]),
            status=inert(view["status"]),
            state=state,
            doing=doing,
            job=seen.job,
            waiting_for=inert(seen.waiting_for if state == "waiting" else ""),
            backend=inert(view.get("backend")),
            project_dir=inert(view.get("project_dir")),
            user=inert(view.get("user")),
            problem=inert(view.get("problem")),
            created_at=inert(view.get("created_at")),
            started_at=inert(view.get("started_at")),
            stopped_at=inert(view.get("stopped_at")),
            exit_code=view.get("exit_code"),
            reason=inert(view.get("reason")),
            network=bool(view.get("network")),
            agent=inert(" ".join([*view.get("agent", ()), *view.get("agent_args", ())])),
            geometry=inert(view.get("geometry")),
            attach_command=inert(view.get("attach_command")),
            details=tuple(_details(view)),
            given=tuple(view.get("given", ())),
            skipped=tuple((inert(name), inert(why)) for name, why in view.get("skipped", {}).items()),
            mounts=tuple(_mount(each) for each in view.get("mounts", ())),
            process=_rounded(seen.process),
            usage=Usage.of(seen.usage) if seen.usage is not None else None,
            terminal=seen.terminal,
            frame=seen.frame,
        )

    @property
    def alive(self) -> bool:
        """Whether it runs, and nothing is being done to it."""
        return self.status == "running" and self.job is None

    @property
    def tokens(self) -> int:
        """All tokens that its agent used."""
        return self.usage.all.total if self.usage else 0

    @property
    def cpu_percent(self) -> float:
        """What it uses of one processor."""
        return self.process.cpu_percent if self.process else 0.0

    @property
    def grants(self) -> list[tuple[str, str]]:
        """What it was given, each with what that means."""
        return [(name, TABLE[name].words) for name in self.given if name in TABLE]

    def tail(self, lines: int) -> str:
        """The last lines of its terminal, as text."""
        text = ansi.plain(self.terminal.text) if self.terminal else ""
        return "\n".join(text.rstrip().split("\n")[-lines:])

    def picture(self) -> Markup:
        """Its terminal as it looks, as HTML."""
        return ansi.html(self.terminal.text, self.terminal.columns) if self.terminal else Markup("")


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which sandboxes are shown, and in which order: what the address of the page says."""

    text: str = ""
    status: str = ""
    backend: str = ""
    waiting: bool = False
    sort: str = "waiting"

    @classmethod
    def of(cls, arguments: Mapping[str, str]) -> Choice:
        """What is asked for; what cannot be is as if it were not asked for."""
        return cls(
            arguments.get("q", "").strip()[:200],
            _one_of(arguments.get("status", ""), STATUSES, ""),
            _one_of(arguments.get("backend", ""), BACKENDS, ""),
            arguments.get("waiting", "") == "1",
            _one_of(arguments.get("sort", ""), SORTS, SORTS[0]),
        )

    @property
    def arguments(self) -> dict[str, str]:
        """The parameters by which an address asks for this."""
        every = {
            "q": self.text,
            "status": self.status,
            "backend": self.backend,
            "waiting": "1" if self.waiting else "",
            "sort": self.sort if self.sort != SORTS[0] else "",
        }
        return {name: value for name, value in every.items() if value}

    @property
    def filters(self) -> bool:
        """Whether some may be left out."""
        return bool(self.arguments.keys() - {"sort"})

    def applied(self, cards: Iterable[Card]) -> list[Card]:
        """Those that are asked for, in the order asked for; by name where that makes no difference."""
        return sorted(filter(self._takes, cards), key=lambda card: (_ORDERS[self.sort](card), card.name))

    def _takes(self, card: Card) -> bool:
        text = f"{card.name}\n{card.ref}\n{card.project_dir}\n{card.user}".lower()
        return (
            all(word in text for word in self.text.lower().split())
            and self.status in ("", card.status)
            and self.backend in ("", card.backend)
            and (not self.waiting or card.state == "waiting")
        )


def _newest_first(card: Card) -> tuple[float, ...]:
    """ISO times of one zone sort as they are; turned around, they have to be numbers."""
    return tuple(-ord(character) for character in card.created_at)


_ORDERS: Mapping[str, Callable[[Card], Any]] = {
    "waiting": lambda card: card.state != "waiting",
    "name": lambda card: card.name,
    "age": _newest_first,
    "tokens": lambda card: -card.tokens,
    # Jitter does not have cards change places.
    "cpu": lambda card: -round(card.cpu_percent / 10),
}


@dataclasses.dataclass(frozen=True)
class Shown:
    """The cards that somebody is to see now.

    version: stands for what was shown, when asked what changed since. cards: each with its HTML, or None where whoever
    asked has that. waiting: the names of all that wait, shown or not, by key.
    """

    version: str
    cards: list[tuple[Card, Markup | None]]
    total: int
    waiting: dict[str, str]


@dataclasses.dataclass
class _Entry:
    seen: Seen
    card: Card
    number: int
    html: Markup | None = None


class Board:
    """The cards as they were last rendered, once for all who look. May be asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Numbers of another run of the manager mean nothing.
        self._run = secrets.token_hex(4)
        self._number = 1
        self._entries: dict[str, _Entry] = {}

    def shown(self, seen: Sequence[Seen], choice: Choice, since: str, render: Callable[[Card], Markup]) -> Shown:
        """What is to be seen now, by whoever saw what `since` stands for: of the same version where nothing changed."""
        with self._lock:
            self._take(seen)
            known = self._known(since)
            chosen = choice.applied(entry.card for entry in self._entries.values())
            return Shown(
                f"{self._run}.{self._number}",
                [(card, self._html(card, known, render)) for card in chosen],
                len(self._entries),
                {each.card.key: each.card.name for each in self._entries.values() if each.card.state == "waiting"},
            )

    def _take(self, seen: Sequence[Seen]) -> None:
        entries = {str(each.view["name"]): self._entry(each) for each in seen}
        changed = any(entry.number > self._number for entry in entries.values())
        if changed or entries.keys() != self._entries.keys():
            self._number += 1
        self._entries = entries

    def _entry(self, seen: Seen) -> _Entry:
        """What is known of a sandbox: as it was, where nothing that is shown has changed."""
        known = self._entries.get(str(seen.view["name"]))
        if known is not None and known.seen == seen:
            return known
        card = Card.of(seen)
        if known is not None and known.card == card:
            known.seen = seen
            return known
        return _Entry(seen, card, self._number + 1)

    def _known(self, since: str) -> int:
        run, _, number = since.partition(".")
        return int(number) if run == self._run and number.isdecimal() and len(number) < 16 else 0

    def _html(self, card: Card, known: int, render: Callable[[Card], Markup]) -> Markup | None:
        entry = self._entries[card.name]
        if entry.number <= known:
            return None
        if entry.html is None:
            entry.html = render(card)
        return entry.html


def inert(value: object) -> str:
    """A value as text that does nothing where it is shown, and is on one line."""
    return " ".join(ansi.plain(str(value)[:_TEXT_LIMIT]).split("\n")) if value not in (None, "") else ""


def size(number: float) -> str:
    """A number of bytes, for people."""
    for unit in _UNITS[:-1]:
        if number < 999.5:
            return f"{number:.0f} {unit}" if number >= 99.5 or unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} {_UNITS[-1]}"


def count(number: float) -> str:
    """A number of tokens, for people: 950, 12.3k, 4.56M."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def money(usd: float) -> str:
    """A sum in USD, for people."""
    return f"${usd:,.2f}" if usd == 0 or usd >= 0.005 else "< $0.01"


def sparkline(values: Sequence[float], highest: float | None = None) -> Markup:
    """A line of how a figure went, as SVG. highest: what the top stands for; the highest value where not given."""
    finite = [value if math.isfinite(value) else 0.0 for value in values[-_MOST_BARS:]] or [0.0]
    top = highest or max(*finite, 1e-9, 0)
    step = 100 / max(len(finite) - 1, 1)
    points = [f"{at * step:.1f},{23 - 22 * min(max(value / top, 0), 1):.1f}" for at, value in enumerate(finite)]
    if len(points) == 1:
        points.append(f"100,{points[0].partition(',')[2]}")
    line = " ".join(points)
    return Markup(
        '<svg class="sparkline" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<polygon points="0,24 {} 100,24"/><polyline points="{}" fill="none" vector-effect="non-scaling-stroke"/></svg>'
    ).format(line, line)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A span of time in a chart: its place, and its tokens as parts of the highest bar's, from below."""

    x: float
    width: float
    at: int
    total: int
    parts: tuple[tuple[str, float, float], ...]  # kind, top, height


def bars(usage: Usage) -> list[Bar]:
    """The chart of tokens over time, 100 by 100: few spans of the same length, empty ones too."""
    if not usage.history:
        return []
    first, last = usage.history[0][0], usage.history[-1][0]
    span = max(600, math.ceil((last - first + 600) / _MOST_BARS / 600) * 600)
    sums: dict[int, list[int]] = {}
    for at, counts in usage.history:
        slot = sums.setdefault((at - first) // span, [0] * len(TOKENS))
        slot[:] = [a + b for a, b in zip(slot, counts, strict=True)]
    slots = max(max(sums) + 1, 12)
    highest = max(sum(counts) for counts in sums.values()) or 1
    width = 100 / slots
    return [
        Bar(slot * width, width * 0.8, first + slot * span, sum(counts), _stacked(counts, highest))
        for slot, counts in sorted(sums.items())
    ]


def _stacked(counts: Sequence[int], highest: int) -> tuple[tuple[str, float, float], ...]:
    parts, top = [], 100.0
    for kind, number in zip(("input", "output", "written", "read"), counts, strict=True):
        height = 100 * number / highest
        top -= height
        parts.append((kind, round(top, 2), round(height, 2)))
    return tuple(parts)


def _one_of(value: str, known: Iterable[str], default: str) -> str:
    return value if value in known else default


def _state(seen: Seen) -> tuple[str, str]:
    """What is the matter with a sandbox, as one word and for people."""
    status = str(seen.view["status"])
    if seen.job is not None:
        return "changing", _DOING.get(seen.job, inert(seen.job))
    if status == "running":
        if seen.activity not in _ACTIVITIES:
            return "running", "running"
        return seen.activity, "waiting for you" if seen.activity == "waiting" else seen.activity
    return (status if status in STATUSES else "unreadable"), inert(status)


def _mount(content: Mapping[str, Any]) -> Mount:
    return Mount(inert(content.get("source")), inert(content.get("target")), inert(content.get("mode")))


def _details(view: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What only some look for, in the order in which it is shown."""
    for name, label in _DETAILS.items():
        if view.get(name) not in (None, ""):
            yield label, inert(view[name])


def _rounded(process: Process | None) -> Process | None:
    """The figures as exact as they are shown, so that jitter below that is no change."""
    if process is None:
        return None
    return Process(round(process.cpu_percent), process.memory_bytes >> 20 << 20, process.processes)


def _tokens(name: str, counts: Mapping[str, Any]) -> Tokens:
    return Tokens(inert(name), counts.get("messages", 0), _counts(counts))


def _counts(counts: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(counts.get(name, 0) for name in TOKENS)
