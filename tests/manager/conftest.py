"""What the manager's tests share: an account, and a manager for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.manager.served import Served, serving
from tests.support.account import Account, account_for_tests


@pytest.fixture(scope="session")
def account() -> Iterator[Account]:
    """Whose sandboxes they are."""
    with account_for_tests() as made:
        yield made


@pytest.fixture(scope="module")
def served(account: Account) -> Iterator[Served]:
    """A manager on loopback, without a token."""
    with serving(account) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No sandbox of one test is there in the next one."""
    yield
    if "served" in request.fixturenames:
        made = request.getfixturevalue("served")
        for view in made.call("GET", "/api/sandboxes").json():
            assert made.call("DELETE", f"/api/sandboxes/{view['name']}").status_code == 204
