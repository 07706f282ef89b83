# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tests of claude-remote share: a real sshd, a real manager behind it, a laptop that reaches sshd alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manager.served import Served, serving
from tests.remote.server import Laptop, Server, laptop, let_in, network, serving_ssh
from tests.support.account import Account, unprivileged_account

TOKEN = "a-token-of-some-thirty-characters"


@pytest.fixture(scope="session")
def account() -> Iterator[Account]:
    """Whose sandboxes they are, and who logs in."""
    if os.geteuid() != 0:
        pytest.skip("an sshd and accounts of their own need root")
    with unprivileged_account() as made:
        let_in(made)
        yield made


@pytest.fixture(scope="session")
def cable() -> Iterator[tuple[int, str, str]]:
    """The laptop's network."""
    with network() as made:
        yield made


@pytest.fixture(scope="session")
def server(cable: tuple[int, str, str]) -> Iterator[Server]:
    """The server's sshd."""
    with serving_ssh(cable[1]) as made:
        yield made


@pytest.fixture(scope="session")
def served(account: Account) -> Iterator[Served]:
    """A manager of root's with a token, which the account may read where claude-remote looks for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "token"
        path.touch(mode=0o600)
        path.write_text(TOKEN)
        with serving(account, MANAGER_TOKEN_FILE=str(path)) as made:
            shutil.copy(path, made.folder / "token")
            made.web.headers["Authorization"] = f"Bearer {TOKEN}"
            give_token(account, TOKEN)
            yield made


def give_token(account: Account, token: str) -> Path:
    """Put a token where claude-remote looks for it first."""
    path = account.home / ".config/claude-sandbox/token"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(f"{token}\n")
    account.own(account.home / ".config")
    return path


@pytest.fixture
def here(server: Server, cable: tuple[int, str, str], account: Account, served: Served) -> Iterator[Laptop]:
    """A laptop that logs in as the account."""
    with laptop(server, cable[0], account.name, served.port) as made:
        yield made


@pytest.fixture
def as_root(server: Server, cable: tuple[int, str, str], served: Served) -> Iterator[Laptop]:
    """A laptop that logs in as root."""
    with laptop(server, cable[0], "root", served.port) as made:
        # Nothing is put into root's own home.
        config = made.home / ".config/claude-remote/config"
        config.parent.mkdir(parents=True)
        options = json.dumps(["-F", f"{made.folder}/ssh_config"])
        config.write_text(
            f'[hosts.server]\nhost = "root@{server.address}"\nport = {served.port}\nssh_opts = {options}\n'
            f'token_file = "{served.folder}/token"\n'
        )
        del made.environ["CLAUDE_REMOTE_HOST"]
        yield made


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No sandbox of one test is there in the next one."""
    yield
    if "served" in request.fixturenames:
        made: Served = request.getfixturevalue("served")
        for view in made.call("GET", "/api/sandboxes").json():
            assert made.call("DELETE", f"/api/sandboxes/{view['name']}").status_code == 204
