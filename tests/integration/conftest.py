"""What the integration tests share: an account, and a registry for each test."""

from __future__ import annotations

import os
import pwd
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.arena import Arena, arena_of
from tests.support.account import Account, unprivileged_account


@pytest.fixture(scope="session")
def account() -> Iterator[Account]:
    """Whose sandboxes they are: an account made for the tests where root runs them, else the one that does."""
    if os.geteuid() == 0:
        with unprivileged_account() as made:
            yield made
            assert made.processes() == [], "the tests left processes behind"
        return
    with tempfile.TemporaryDirectory(prefix="cst-projects-") as root:
        yield Account(pwd.getpwuid(os.geteuid()).pw_name, Path(root))


@pytest.fixture
def arena(account: Account, request: pytest.FixtureRequest) -> Iterator[Arena]:
    name = re.sub(r"\W+", "-", f"{request.path.stem}-{request.node.name}").strip("-")
    with arena_of(account, name) as made:
        yield made


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can do this")
