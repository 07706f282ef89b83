"""What the integration tests share: an account, and a registry for each test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.integration.arena import Arena, arena_of
from tests.support.account import Account, account_for_tests


@pytest.fixture(scope="session")
def account() -> Iterator[Account]:
    """Whose sandboxes they are."""
    with account_for_tests() as made:
        yield made


@pytest.fixture
def arena(account: Account, request: pytest.FixtureRequest) -> Iterator[Arena]:
    name = re.sub(r"\W+", "-", f"{request.path.stem}-{request.node.name}").strip("-")
    with arena_of(account, name) as made:
        yield made


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can do this")
