# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One sandbox that is as it should be, through its module; and fifty, new and again."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from . import create, place
from .figure import Figure, in_turns, milliseconds, ratio, shown
from .payload import Payload, bare

CONVERGED_LIMIT = 1.3
MANY = 50
MANY_LIMIT = 1.0
MANY_CONVERGED_LIMIT = 2.0
_ROUNDS = 15
_ROUNDS_BESIDE = 8


def one(where: place.Place) -> Figure:
    """The module on a sandbox that needs no change, against a bare one."""
    folder = f"{where.folder}/one"
    params = {"name": "one", "state_dir": folder, **where.params("one")}
    module = Payload(where.folder, "claude_sandbox", params)
    floor = bare(where.folder, "claude_sandbox", params)
    with place.registry(folder):
        module.run(changed=True)
        samples = _converged(floor, module, "claude_sandbox", _ROUNDS)
    above = ratio(samples["claude_sandbox"], samples["bare module"])
    return Figure("converged", above, CONVERGED_LIMIT, (shown(samples),))


def many(where: place.Place) -> Iterator[Figure]:
    """Fifty sandboxes in one call, new and then again, against as many floors and a bare module."""
    folder = f"{where.folder}/many"
    items = [{"name": f"n{number}", **where.params(f"n{number}")} for number in range(MANY)]
    params = {"state_dir": folder, "sandboxes": items}
    module = Payload(where.folder, "claude_sandboxes", params)
    floor = bare(where.folder, "claude_sandboxes", params)
    with place.registry(folder):
        # Once only: ext4 is slow to make files for minutes after many were deleted, and fifty are an average already.
        new = {"floor": create.floors(where, _ROUNDS_BESIDE), "claude_sandboxes": [_timed(module, True)]}
        new["floor"] += create.floors(where, _ROUNDS_BESIDE)
        again = _converged(floor, module, "claude_sandboxes", _ROUNDS)
    allowed = MANY * statistics.median(new["floor"]) + statistics.median(again["bare module"])
    yield Figure("fifty-new", statistics.median(new["claude_sandboxes"]) / allowed, MANY_LIMIT, (shown(new),))
    above = ratio(again["claude_sandboxes"], again["bare module"])
    yield Figure("fifty-converged", above, MANY_CONVERGED_LIMIT, (shown(again),))


def _converged(floor: Payload, module: Payload, name: str, rounds: int) -> dict[str, list[float]]:
    return in_turns(rounds, {"bare module": lambda: _timed(floor, False), name: lambda: _timed(module, False)})


def _timed(payload: Payload, changed: bool) -> float:
    return milliseconds(lambda: payload.run(changed))
