"""What tokens cost, by the list that is built in and by a user's own."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import prices
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

MILLION = {
    "input_tokens": 1_000_000,
    "output_tokens": 1_000_000,
    "cache_creation_input_tokens": 1_000_000,
    "cache_read_input_tokens": 1_000_000,
    "messages": 7,
}
OWN = {"input": 1, "output": 2.5, "cache_write": 0.5, "cache_read": 0}


def usd(model: str, **tokens: int) -> float:
    """What tokens of a model cost by the built-in list; all kinds a million, unless given."""
    return prices.cost({model: tokens_of(**tokens) if tokens else MILLION}, prices.BUILT_IN).usd


def tokens_of(**tokens: int) -> dict[str, int]:
    return {**dict.fromkeys(MILLION, 0), **tokens}


# The list.


def test_the_kinds_of_tokens_are_not_mixed_up() -> None:
    assert usd("claude-opus-4-8", input_tokens=2_000_000) == 10
    assert usd("claude-opus-4-8", output_tokens=2_000_000) == 50
    assert usd("claude-opus-4-8", cache_creation_input_tokens=2_000_000) == 12.5
    assert usd("claude-opus-4-8", cache_read_input_tokens=2_000_000) == 1


@pytest.mark.parametrize("model", prices.BUILT_IN.models)
def test_each_price_is_in_proportion(model: str) -> None:
    """A slip of the pen would be seen: a token out costs five times one in, one written to the cache a quarter more."""
    price = prices.BUILT_IN.models[model]
    assert price.output == pytest.approx(5 * price.input)
    assert price.cache_write == pytest.approx(1.25 * price.input, rel=0.05)
    assert 0 < price.cache_read <= 0.12 * price.input


def test_the_day_of_the_list_is_one() -> None:
    assert datetime.date.fromisoformat(prices.AS_OF).isoformat() == prices.AS_OF == prices.BUILT_IN.as_of


@pytest.mark.parametrize(
    "model, as_if",
    [
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-opus-4-1-20250805", "claude-opus-4-1"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-sonnet-4-5-20250929[1m]", "claude-sonnet-4-5"),
        ("claude-sonnet-5-5", "claude-sonnet-5-5"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("us-gov.anthropic.claude-3-7-sonnet-20250219-v1:0", "claude-3-7-sonnet"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "claude-3-haiku"),
        ("anthropic/claude-opus-4.5", "claude-opus-4-5"),
        ("anthropic/claude-3.5-haiku:beta", "claude-3-5-haiku"),
        ("bedrock/eu.anthropic.claude-opus-5", "claude-opus-5"),
        ("claude-opus-4-5@20251101", "claude-opus-4-5"),
    ],
)
def test_a_model_is_known_by_the_beginning_of_its_name(model: str, as_if: str) -> None:
    assert prices.price_of(model, prices.BUILT_IN) == prices.BUILT_IN.models[as_if]


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("claude-opus-4-9", id="a-version-after-it"),
        pytest.param("claude-opus-4-99-20270101", id="another-version-after-it"),
        pytest.param("claude-opus-5.7", id="version-with-a-dot"),
        pytest.param("claude-opus-45", id="half-a-word"),
        pytest.param("claude-opus", id="too-short"),
        pytest.param("my-claude-opus-5", id="not-at-the-beginning"),
        pytest.param("gpt-5", id="another-house"),
        pytest.param("unknown", id="unknown"),
        pytest.param("[1m]", id="nothing-but-a-suffix"),
        pytest.param("anthropic/", id="nothing-but-a-vendor"),
        pytest.param("", id="empty"),
    ],
)
def test_a_model_without_a_price_is_named_and_costs_nothing(model: str) -> None:
    found = prices.cost({"claude-haiku-4-5": MILLION, model: MILLION}, prices.BUILT_IN)
    assert (found.usd, found.unpriced) == (7.35, [model])


def test_the_costs_of_models_add_up() -> None:
    found = prices.cost({"claude-haiku-4-5": MILLION, "claude-opus-5": MILLION}, prices.BUILT_IN)
    assert found == prices.Cost(7.35 + 36.75, prices.AS_OF, [])
    assert prices.cost({"b": MILLION, "a": MILLION}, prices.BUILT_IN).unpriced == ["a", "b"]
    assert prices.cost({}, prices.BUILT_IN) == prices.Cost(0, prices.AS_OF, [])


def test_a_family_has_a_price_where_the_list_says_so() -> None:
    own = prices.Price(1, 1, 1, 1)
    table = prices.Table("2027-01-01", {"claude": own, "claude-opus-4": prices.Price(2, 2, 2, 2)})
    assert prices.price_of("claude-opus-4-9", table) == own
    assert prices.price_of("claude-opus-4-20250514", table) == table.models["claude-opus-4"]


# A user's own.


def given(folder: Path, content: object) -> str:
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (folder / "prices.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def test_without_a_file(tmp_path: Path) -> None:
    assert prices.load(str(tmp_path)) == prices.BUILT_IN
    assert prices.load(str(tmp_path / "nowhere")) == prices.BUILT_IN


def test_a_users_prices_come_before_ours(tmp_path: Path) -> None:
    models = {"claude-opus-5": OWN, "claude-opus-6": OWN}
    table = prices.load(given(tmp_path, {"as_of": "2027-02-28", "models": models}))
    assert table.as_of == "2027-02-28"
    assert table.models == {
        **prices.BUILT_IN.models,
        "claude-opus-5": prices.Price(1, 2.5, 0.5, 0),
        "claude-opus-6": prices.Price(1, 2.5, 0.5, 0),
    }


@pytest.mark.parametrize("content", [{}, {"models": {}}, {"as_of": prices.AS_OF}])
def test_what_a_users_file_leaves_out_is_ours(tmp_path: Path, content: dict[str, Any]) -> None:
    assert prices.load(given(tmp_path, content)) == prices.BUILT_IN


@pytest.mark.parametrize(
    "content, why",
    [
        pytest.param("{", "Expecting property name", id="unfinished"),
        pytest.param(b"\xff", "codec can't decode", id="no-text"),
        pytest.param("[" * 100_000, "recursion", id="too-deep"),
        pytest.param("[]", "no object of as_of and models", id="list"),
        pytest.param({"model": {}}, "no object of as_of and models", id="other-field"),
        pytest.param({"as_of": "today"}, "as_of is 'today'", id="no-day"),
        pytest.param({"as_of": "2026-13-01"}, "month must be in", id="no-month"),
        pytest.param({"as_of": 20260101}, "as_of is 20260101", id="day-is-a-number"),
        pytest.param({"models": []}, "models is no object", id="models-are-a-list"),
        pytest.param({"models": {"": OWN}}, "no plain name", id="no-name"),
        pytest.param({"models": {"us.anthropic.claude-opus-5": OWN}}, "no plain name", id="name-of-a-vendor"),
        pytest.param({"models": {"claude-opus-5[1m]": OWN}}, "no plain name", id="name-with-a-suffix"),
        pytest.param({"models": {"m": 5}}, "is no object of input", id="price-is-a-number"),
        pytest.param({"models": {"m": {"input": 5}}}, "is no object of input", id="price-is-partial"),
        pytest.param({"models": {"m": {**OWN, "more": 1}}}, "is no object of input", id="price-has-more"),
        pytest.param({"models": {"m": {**OWN, "input": "5"}}}, "has '5'", id="text"),
        pytest.param({"models": {"m": {**OWN, "input": True}}}, "has True", id="bool"),
        pytest.param({"models": {"m": {**OWN, "input": -1}}}, "has -1", id="negative"),
        pytest.param({"models": {"m": {**OWN, "input": float("nan")}}}, "has nan", id="nan"),
        pytest.param({"models": {"m": {**OWN, "input": float("inf")}}}, "has inf", id="infinite"),
        pytest.param({"models": {"m": {**OWN, "input": 10**400}}}, "no number from 0", id="huge"),
        pytest.param(" " * ((1 << 20) + 1), "more than 1048576 bytes", id="too-long"),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, content: object, why: str) -> None:
    with pytest.raises(SandboxError) as caught:
        prices.load(given(tmp_path, content))
    assert caught.value.what.startswith(f"{tmp_path}/prices.json cannot be used: ")
    assert why in caught.value.what
    assert len(caught.value.what) < 400
    assert "\n" not in caught.value.what
    assert "Mend or remove it" in caught.value.hint


TRAPS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "dangling-link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_is_no_file_is_not_read(tmp_path: Path, trap: str) -> None:
    TRAPS[trap](tmp_path / "prices.json")
    with pytest.raises(SandboxError, match="it is no file that can be read"):
        prices.load(str(tmp_path))


def test_the_example_of_the_message_can_be_used(tmp_path: Path) -> None:
    with pytest.raises(SandboxError) as caught:
        prices.load(given(tmp_path, "5"))
    hint = caught.value.hint
    example = hint[hint.index("{") : hint.rindex("}") + 1]
    assert prices.load(given(tmp_path, example)).as_of == prices.AS_OF
