"""What the manager takes from its environment, and what it refuses to start with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from claude_sandbox.errors import SandboxError
from claude_sandbox.host import Host
from manager_app import config

TOKEN = "a-token-of-these-tests-0123456789"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def given(**variables: str) -> config.Config:
    return config.from_environ({f"MANAGER_{name}": value for name, value in variables.items()})


def refusal(**variables: str) -> SandboxError:
    with pytest.raises(SandboxError) as caught:
        given(**variables)
    assert TOKEN not in str(caught.value)
    return caught.value


def test_nothing_is_needed() -> None:
    made = given()
    assert (made.host, made.port, made.address, made.token) == ("127.0.0.1", 3000, "127.0.0.1:3000", None)
    assert made.hosts == {"localhost", "127.0.0.1", "[::1]"}
    assert made.state_dir == Host.this().state_dir()
    assert given(LISTEN="", TOKEN_FILE="", HOSTS="", STATE_DIR="") == made


@pytest.mark.parametrize("listen", ["localhost:80", "127.9.9.9:65535", "[::1]:3000"])
def test_loopback_needs_no_token(listen: str) -> None:
    assert given(LISTEN=listen).address == listen


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:3000", "[::]:3000", "192.0.2.1:3000", "box.example:3000", "[::ffff:127.0.0.1]:3000", "127.1:3000"],
)
def test_what_others_reach_needs_a_token(listen: str, token_file: Path) -> None:
    assert "MANAGER_TOKEN_FILE" in refusal(LISTEN=listen).hint
    assert given(LISTEN=listen, TOKEN_FILE=str(token_file)).token == TOKEN


@pytest.mark.parametrize(
    "listen",
    [
        "3000",
        ":3000",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:1e3",
        "::1:3000",
        "a b:1",
        "x:1\n",
        "/sock",
    ],
)
def test_what_is_no_address_is_refused(listen: str) -> None:
    assert "MANAGER_LISTEN" in refusal(LISTEN=listen).what


def test_names_are_added_as_browsers_write_them() -> None:
    made = given(HOSTS="Box.Example., other,[2001:DB8:0::1] 192.0.2.7")
    assert made.hosts == {"localhost", "127.0.0.1", "[::1]", "box.example", "other", "[2001:db8::1]", "192.0.2.7"}


def test_the_address_is_one_of_the_names_unless_it_is_any(token_file: Path) -> None:
    def hosts(listen: str) -> frozenset[str]:
        return given(LISTEN=listen, TOKEN_FILE=str(token_file)).hosts - given().hosts

    assert hosts("Box.Example:1") == {"box.example"}
    assert hosts("0.0.0.0:1") == hosts("[::]:1") == hosts("[0::0]:1") == set()


@pytest.mark.parametrize(
    "name", ["box:3000", "http://box", "*", "*.example", "2001:db8::1", "[xyz]", "[1.2.3]", ".", "a/b"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    assert "MANAGER_HOSTS" in refusal(HOSTS=f"box {name}").what


# Token files


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "short",
        "x" * 15,
        "x" * 513,
        f"{TOKEN} {TOKEN}",
        f"{TOKEN}\n{TOKEN}",
        f"{TOKEN}ä",
        f"{TOKEN}\0",
        "x" * 9999,
    ],
)
def test_what_is_no_token_is_refused(token_file: Path, content: str) -> None:
    token_file.write_text(content)
    assert "holds no token" in refusal(TOKEN_FILE=str(token_file)).what


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_a_token_that_others_may_read_is_refused(token_file: Path, mode: int) -> None:
    token_file.chmod(mode)
    error = refusal(TOKEN_FILE=str(token_file))
    assert "Others may read" in error.what
    assert error.hint == f"chmod 600 {token_file}"


def test_what_is_no_plain_file_is_refused(token_file: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(token_file)
    os.mkfifo(pipe, 0o600)
    for path in (link, pipe, tmp_path, tmp_path / "missing", "/dev/zero"):
        assert "cannot be read" in refusal(TOKEN_FILE=str(path)).what
    with pytest.raises(SandboxError):
        given(TOKEN_FILE="a\0b")


@as_root
def test_the_token_of_another_account_is_refused(token_file: Path) -> None:
    os.chown(token_file, 4242, 4242)
    assert "another account's" in refusal(TOKEN_FILE=str(token_file)).what


def test_a_credential_of_systemd_may_look_as_if_a_group_read_it(token_file: Path) -> None:
    token_file.chmod(0o440)
    environ = {"MANAGER_TOKEN_FILE": str(token_file), "CREDENTIALS_DIRECTORY": str(token_file.parent)}
    assert config.from_environ(environ).token == TOKEN
    for other in ("/", "", f"{token_file.parent}x", str(token_file.parent.parent)):
        with pytest.raises(SandboxError):
            config.from_environ({**environ, "CREDENTIALS_DIRECTORY": other})


def test_a_new_token_is_its_accounts_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    earlier = os.umask(0)
    try:
        config.new_token(str(path))
    finally:
        os.umask(earlier)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["token"]
    first = given(TOKEN_FILE=str(path)).token
    assert first is not None
    assert len(first) == 43
    config.new_token(str(tmp_path / "another"))
    assert given(TOKEN_FILE=str(tmp_path / "another")).token != first


def test_no_token_is_overwritten(token_file: Path, tmp_path: Path) -> None:
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere")
    for path in (token_file, dangling, tmp_path):
        with pytest.raises(SandboxError, match="is there already"):
            config.new_token(str(path))
    assert token_file.read_text() == f"{TOKEN}\n"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "token"]


def test_where_no_file_can_be_made_it_is_said() -> None:
    for path in ("/proc/self/token", "/nowhere/token", "/dev/null/token", "a\0b"):
        with pytest.raises(SandboxError, match="cannot be made"):
            config.new_token(path)
