# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What tokens cost: list prices of a certain day, and what a user puts over them.

Every sum is an estimate and a lower bound. Where a model has several prices (long prompts, fast answers, a cache that
is kept for an hour) the lowest stands here, for a transcript's sums do not tell which one was paid.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from . import files
from .errors import SandboxError, shown

AS_OF = "2026-10-24"
_FILE = "prices.json"
_FILE_LIMIT = 1 << 20  # bytes; one with all models has 4 KiB
_HIGHEST = 1_000_000  # USD per million tokens: more is a mistake in the unit


@dataclasses.dataclass(frozen=True)
class Price:
    """What a million tokens of each kind cost, in USD; cache_write is for a cache that is kept for five minutes."""

    input: float
    output: float
    cache_write: float
    cache_read: float


@dataclasses.dataclass(frozen=True)
class Table:
    """Prices by the beginnings of models' names, and the day (YYYY-MM-DD) when they were looked up."""

    as_of: str
    models: Mapping[str, Price]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What tokens cost by a table's prices; `unpriced` are the models that it does not have, and that count nothing."""

    usd: float
    as_of: str
    unpriced: list[str]


_OPUS_4 = Price(15, 75, 18.75, 1.5)
_OPUS = Price(5, 25, 6.25, 0.5)
_SONNET = Price(3, 15, 3.75, 0.3)
_MYTHOS = Price(10, 50, 12.5, 1)
_MYTHOS_5_1 = Price(10, 50, 12.5, 0.25)

# https://platform.claude.com/docs/en/about-claude/pricing
BUILT_IN = Table(
    AS_OF,
    {
        "claude-fable-5": _MYTHOS,
        "claude-fable-5-1": _MYTHOS_5_1,
        "claude-mythos-5": _MYTHOS,
        "claude-mythos-5-1": _MYTHOS_5_1,
        "claude-opus-5-5": Price(4, 20, 5, 0.2),
        "claude-opus-5": _OPUS,
        "claude-opus-4-8": _OPUS,
        "claude-opus-4-7": _OPUS,
        "claude-opus-4-6": _OPUS,
        "claude-opus-4-5": _OPUS,
        "claude-opus-4-1": _OPUS_4,
        "claude-opus-4-0": _OPUS_4,
        "claude-opus-4": _OPUS_4,
        "claude-3-opus": _OPUS_4,
        "claude-sonnet-5-5": Price(2, 10, 2.5, 0.1),
        "claude-sonnet-5": Price(2, 10, 2.5, 0.2),
        "claude-sonnet-4-6": _SONNET,
        "claude-sonnet-4-5": _SONNET,
        "claude-sonnet-4-0": _SONNET,
        "claude-sonnet-4": _SONNET,
        "claude-3-7-sonnet": _SONNET,
        "claude-3-5-sonnet": _SONNET,
        "claude-haiku-5-5": Price(0.1, 0.5, 0.125, 0.01),
        "claude-haiku-4-5": Price(1, 5, 1.25, 0.1),
        "claude-3-5-haiku": Price(0.8, 4, 1, 0.08),
        "claude-3-haiku": Price(0.25, 1.25, 0.3, 0.03),
    },
)


def cost(by_model: Mapping[str, Mapping[str, int]], table: Table) -> Cost:
    """What the tokens of each model (as `usage.Usage.by_model` has them) cost in all."""
    total, unpriced = 0.0, []
    for model, tokens in by_model.items():
        price = price_of(model, table)
        if price is None:
            unpriced.append(model)
        else:
            total += (
                tokens["input_tokens"] * price.input
                + tokens["output_tokens"] * price.output
                + tokens["cache_creation_input_tokens"] * price.cache_write
                + tokens["cache_read_input_tokens"] * price.cache_read
            )
    return Cost(round(total / 1e6, 6), table.as_of, sorted(unpriced))


def price_of(model: str, table: Table) -> Price | None:
    """The price of the longest beginning of a model's name that the table has; None where it has none."""
    name = _plain(model)
    fitting = [beginning for beginning in table.models if _begins(name, beginning)]
    return table.models[max(fitting, key=len)] if fitting else None


def _plain(model: str) -> str:
    """The model's own name, without what a vendor puts before it, the size of its context, and dots in its version."""
    name = model.split("[", maxsplit=1)[0].rsplit("/", 1)[-1]
    return re.sub(r"^([a-z-]+\.)*anthropic\.", "", name).replace(".", "-")


def _begins(name: str, beginning: str) -> bool:
    """Whether whole words of a name are this beginning. claude-opus-4 is none of claude-opus-4-9, another version."""
    rest = name.removeprefix(beginning) if name.startswith(beginning) else "?"
    if beginning[-1:].isdigit() and re.match(r"-\d{1,2}(?!\d)", rest):
        return False
    return rest == "" or rest[0] in "-@:"


def load(state_dir: str) -> Table:
    """The built-in prices, and over them those of the file prices.json in the state directory, where there is one.

    Raises SandboxError where the file cannot be read, or is not what it should be.
    """
    path = f"{state_dir}/{_FILE}"
    if not os.path.lexists(path):
        return BUILT_IN
    try:
        content = json.loads(_content(path))
        return _merged(content)
    except (ValueError, RecursionError) as error:
        raise SandboxError(
            f"{path} cannot be used: {error}.",
            'It is to be like {"as_of": "2026-10-24", "models": {"claude-opus-5": {"input": 5, "output": 25, '
            '"cache_write": 6.25, "cache_read": 0.5}}}, in USD per million tokens. Mend or remove it.',
        ) from None


def _content(path: str) -> bytes:
    file = files.open_regular(path)
    if file is None:
        raise ValueError("it is no file that can be read")
    with file:
        content = file.read(_FILE_LIMIT + 1)
    if len(content) > _FILE_LIMIT:
        raise ValueError(f"it has more than {_FILE_LIMIT} bytes")
    return content


def _merged(content: Any) -> Table:
    """Raises ValueError where the content is no table of prices."""
    if not isinstance(content, dict) or not content.keys() <= {"as_of", "models"}:
        raise ValueError("it is no object of as_of and models")
    as_of, models = content.get("as_of", AS_OF), content.get("models", {})
    if not isinstance(as_of, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", as_of, re.ASCII):
        raise ValueError(f"as_of is {shown(as_of)}, and no day like {AS_OF}")
    datetime.date.fromisoformat(as_of)
    if not isinstance(models, dict):
        raise ValueError("models is no object")
    return Table(as_of, {**BUILT_IN.models, **{_checked(name): _price(name, each) for name, each in models.items()}})


def _checked(name: str) -> str:
    if not name or _plain(name) != name:
        raise ValueError(f"{shown(name)} is no plain name of a model, like claude-opus-5")
    return name


def _price(name: str, content: Any) -> Price:
    wanted = [field.name for field in dataclasses.fields(Price)]
    if not isinstance(content, dict) or content.keys() != set(wanted):
        raise ValueError(f"the price of {shown(name)} is no object of {', '.join(wanted)}")
    for value in content.values():
        # A comparison with NaN is false.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _HIGHEST:
            raise ValueError(f"the price of {shown(name)} has {shown(value)}, no number from 0 to {_HIGHEST}")
    return Price(*(float(content[each]) for each in wanted))
