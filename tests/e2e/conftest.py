"""What the end-to-end tests share: an account, a registry, and Claude Code's API on loopback."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.probes.matrix import BACKENDS
from tests.support.account import Account, unprivileged_account
from tests.support.messages_api import MessagesApi

# The stories that are about the host, and not about the kernel or about bubblewrap's way of making mounts.
_OF_MACHINES = {
    *("test_held", "test_works_outside", "test_can_fail", "test_saved_on_the_host", "test_project_swapped_for_a_link"),
    *("test_link_on_the_way_to_a_mount", "test_api_key_stays_inside", "test_api_key_control"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A probe is not tried where there is nothing that it is about."""
    items[:] = [item for item in items if _applies(item)]


def _applies(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    backend, probe = BACKENDS.get(params.get("matrix", "")), params.get("probe")
    if backend is None:
        return True
    if "container" in getattr(item, "fixturenames", ()) and backend.kind != "container":
        return False
    if backend.at_once and (params.get("pane") or getattr(item, "originalname", "") not in _OF_MACHINES):
        return False
    return params.get("owner", "account") in backend.owners and (probe is None or probe.applies(backend.kind))


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
