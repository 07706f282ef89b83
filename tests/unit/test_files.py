"""Files that may have been prepared against whoever reads them."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import files, procs


def regular(path: Path) -> None:
    path.write_bytes(b'{"a": 1}')


def link(path: Path) -> None:
    target = path.with_name("target")
    regular(target)
    path.symlink_to(target)


def character_device(path: Path) -> None:
    # Any user can reach one; only root could make one.
    path.symlink_to("/dev/zero")


TRAPS: dict[str, Callable[[Path], object]] = {
    "link": link,
    "dangling-link": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "link-to-device": character_device,
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "missing": lambda path: None,
    "unix-socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
}


@pytest.fixture(params=TRAPS)
def trap(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "file"
    TRAPS[request.param](path)
    return str(path)


def test_a_regular_file_is_opened(tmp_path: Path) -> None:
    regular(tmp_path / "file")
    file = files.open_regular(f"{tmp_path}/file")
    assert file is not None
    with file:
        assert file.read() == b'{"a": 1}'
        assert not os.get_inheritable(file.fileno())


def test_a_trap_is_not_opened(trap: str) -> None:
    """Nor waited for: a pipe that nobody writes to would hold its reader for good."""
    before = len(os.listdir("/proc/self/fd"))
    assert files.open_regular(trap) is None
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/proc/self/fd"])
def test_a_device_is_not_opened(path: str) -> None:
    assert files.open_regular(path) is None


@pytest.mark.parametrize(
    "own, place, opened",
    [
        pytest.param(1, "real/deep/file", True, id="no-link"),
        pytest.param(3, "real/deep/file", True, id="no-link-of-three"),
        # What is not another account's to make is the way there as it is.
        pytest.param(1, "real/link/file", True, id="link-above"),
        pytest.param(2, "real/link/file", False, id="link-as-the-folder"),
        pytest.param(3, "real/link/file", False, id="link-as-the-folder-of-three"),
        pytest.param(2, "top/deep/file", True, id="link-above-two"),
        pytest.param(3, "top/deep/file", False, id="link-above-of-three"),
        pytest.param(1, "real/deep/last", False, id="link-itself"),
        pytest.param(2, "real/deep/last", False, id="link-itself-of-two"),
        pytest.param(2, "real/dangling/file", False, id="dangling"),
        pytest.param(2, "real/pipe/file", False, id="pipe-as-the-folder"),
        pytest.param(2, "real/deep/file/file", False, id="file-as-the-folder"),
        pytest.param(2, "real/nowhere/file", False, id="no-folder"),
    ],
)
def test_no_link_is_followed_in_what_another_account_could_have_made(
    tmp_path: Path, own: int, place: str, opened: bool
) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    regular(tmp_path / "real/deep/file")
    (tmp_path / "real/deep/last").symlink_to("file")
    (tmp_path / "real/link").symlink_to("deep")
    (tmp_path / "real/dangling").symlink_to("none")
    os.mkfifo(tmp_path / "real/pipe")
    (tmp_path / "top").symlink_to("real")
    before = len(os.listdir("/proc/self/fd"))
    file = files.open_regular(f"{tmp_path}/{place}", own=own)
    assert (file is not None) is opened
    if file is not None:
        with file:
            assert file.read() == b'{"a": 1}'
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_of_no_more_parts_is_opened_from_the_root() -> None:
    for own in (1, 2, 3):
        file = files.open_regular("/proc/version", own=own)
        assert file is not None
        file.close()


def test_a_trap_holds_no_json(trap: str) -> None:
    assert files.read_json(trap, 100) is None


@pytest.mark.parametrize(
    "content, limit, value",
    [
        pytest.param(b'{"a": [1]}', 100, {"a": [1]}, id="object"),
        pytest.param(b"12345", 5, 12345, id="as-long-as-allowed"),
        pytest.param(b"123456", 5, None, id="too-long"),
        pytest.param(b"", 100, None, id="empty"),
        pytest.param(b"{", 100, None, id="unfinished"),
        pytest.param(b"\xff\xfe\x00", 100, None, id="no-text"),
        pytest.param(b"[" * 100_000, 200_000, None, id="too-deep"),
        pytest.param(b"9" * 10_000, 20_000, None, id="too-large-a-number"),
    ],
)
def test_read_json(tmp_path: Path, content: bytes, limit: int, value: object) -> None:
    (tmp_path / "file").write_bytes(content)
    assert files.read_json(f"{tmp_path}/file", limit) == value


@pytest.mark.parametrize("make", [regular, link, TRAPS["dangling-link"]], ids=["file", "link", "dangling-link"])
def test_create_takes_nobodys_place(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "file")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(FileExistsError):
        files.create(f"{tmp_path}/file", b"new")
    assert sorted(os.listdir(tmp_path)) == before


def test_create_is_private_from_the_first_moment(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        files.create(f"{tmp_path}/file", b"new")
    finally:
        os.umask(old)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


@pytest.mark.parametrize("make", [regular, TRAPS["missing"]], ids=["old", "none"])
def test_replace(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "file")
    files.replace(f"{tmp_path}/file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_replace_takes_the_place_of_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    link(tmp_path / "file")
    files.replace(f"{tmp_path}/file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "target").read_bytes() == b'{"a": 1}'


def test_a_reader_sees_the_old_or_the_new_one_as_a_whole(tmp_path: Path) -> None:
    """A file that is open while it is replaced keeps its content: it was not written into."""
    regular(tmp_path / "file")
    with open(tmp_path / "file", "rb") as reader:
        files.replace(f"{tmp_path}/file", b"new")
        assert reader.read() == b'{"a": 1}'


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    regular(tmp_path / "file")

    def work() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            files.replace(f"{tmp_path}/file", b"x" * 1000)
        except OSError as error:
            return type(error).__name__
        return "written"

    assert procs.fork(None, work).result() == "OSError"
    assert (tmp_path / "file").read_bytes() == b'{"a": 1}'
    assert os.listdir(tmp_path) == ["file"]


def test_replace_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.replace(f"{tmp_path}/nowhere/file", b"new")
