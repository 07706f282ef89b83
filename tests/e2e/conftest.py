"""What the end-to-end tests share: an account, a registry, and Claude Code's API on loopback."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.account import Account, unprivileged_account
from tests.support.messages_api import MessagesApi


@pytest.fixture(scope="session")
def account() -> Iterator[Account]:
    if os.geteuid() != 0:
        pytest.skip("only root can make the account that the sandboxes belong to")
    with unprivileged_account() as made:
        yield made
        assert made.processes() == [], "the tests left processes behind"


@pytest.fixture
def state_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="cs-state-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as served:
        yield served
