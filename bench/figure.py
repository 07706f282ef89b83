# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Figures: samples of a thing and of its floor, taken in turns, and the line that is printed of them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Samples = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """One ratio and its limit; `notes` are the measurements behind it."""

    name: str
    ratio: float
    limit: float
    notes: tuple[str, ...]

    def lines(self) -> str:
        """The line of the figure, and below it, indented, those of its notes."""
        word = "ok" if self.ratio <= self.limit else "SHORT"
        number = f"{self.ratio:.2f}" if self.ratio >= 0.1 else f"{self.ratio:.2g}"
        return "\n    ".join((f"{self.name} {number} <= {self.limit:g} {word}", *self.notes))


def in_turns(rounds: int, work: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Samples of each kind of work, taken in turns: what else the machine does then hits all of them alike.

    The first round is thrown away, for it fills caches.
    """
    samples: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, function in work.items():
            value = function()
            if number:
                samples[name].append(value)
    return samples


def milliseconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    since = time.perf_counter()
    work()
    return (time.perf_counter() - since) * 1000


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """How the medians compare: a median bears some rounds in which the machine was busy."""
    return statistics.median(above) / statistics.median(below)


def shown(samples: Samples) -> str:
    """The medians, and in brackets the smallest values, in milliseconds."""
    parts = [f"{name} {statistics.median(values):.1f} ms ({min(values):.1f})" for name, values in samples.items()]
    return ", ".join(parts)
