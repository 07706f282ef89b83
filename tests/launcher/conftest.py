"""What the launcher's tests share: an account, and in it a person at a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.person import Person, copied, soon
from tests.support.account import Account, unprivileged_account
from tests.support.messages_api import MessagesApi


@pytest.fixture(scope="session")
def account() -> Iterator[Account]:
    if os.geteuid() != 0:
        pytest.skip("only root can make the account whose terminal it is")
    with unprivileged_account() as made:
        yield made
        assert made.processes() == [], "the tests left processes behind"


@pytest.fixture(scope="session")
def library(account: Account) -> Path:
    return copied(account.root)


@pytest.fixture(scope="session")
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as served:
        yield served


@pytest.fixture
def person(account: Account, library: Path, api: MessagesApi, request: pytest.FixtureRequest) -> Iterator[Person]:
    """Nothing runs for them at the beginning; at the end nothing may be left."""
    found = Person(account, library, account.project(re.sub(r"\W", "-", request.node.name)[:60]), api)
    try:
        yield found
        assert soon(lambda: found.processes() == []), found.processes()
        assert [name for name in found.records() if name.startswith(".")] == []
    finally:
        found.leave()
