"""Mounts made from descriptors, with real ones in a process that has mounts of its own."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import libc, mounts, procs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
BASE, OWNER, GROUP = 0x80000, 1000, 2000
SHIFTED, SHIFTED_GROUP = BASE + OWNER, BASE + GROUP


def apart(function: Callable[[], Any]) -> Any:
    """A function's value in a process with mounts of its own, which are gone with it."""

    def work() -> Any:
        mounts.detach_this_process()
        return function()

    return procs.fork(None, work).result()


def refusal(function: Callable[[], Any]) -> str:
    """The name of the error that a function ends with."""
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


# The way to a path.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    for name, points_to in {
        "relative": "a",
        "absolute": "/a",
        "out": "../outside",
        "out-absolute": str(tmp_path / "outside"),
        "dangling": "nowhere",
        "loop": "loop",
        "a/b/link": "file",
        "a/b/magic": "/proc/self/root",
    }.items():
        (top / name).symlink_to(points_to)
    return top


def attempt(root: int, path: str) -> int | None:
    """While somebody else renames or mounts anything, the kernel may not be sure of a .., and says to try again."""
    with contextlib.suppress(BlockingIOError):
        return mounts.below(root, path, os.O_RDONLY)
    return None


def content_below(root: Path | str, path: str) -> str:
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        found = procs.until(lambda: attempt(descriptor, path), 10.0)
        with open(found, "rb") as file:
            assert not os.get_inheritable(found)
            return file.read().decode()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("path", ["/a/b/file", "a/b/file", "/a/./b//file", "/a/b/../b/file", "/../../a/b/file"])
def test_a_path_is_one_of_the_root(tree: Path, path: str) -> None:
    """What leads above it stays in it."""
    assert content_below(tree, path) == "inside"


@pytest.mark.parametrize(
    "path, error",
    [
        pytest.param("/relative/b/file", "ELOOP", id="link"),
        pytest.param("/absolute/b/file", "ELOOP", id="absolute-link"),
        pytest.param("/a/b/link", "ELOOP", id="last-link"),
        pytest.param("/out/file", "ELOOP", id="link-outside"),
        pytest.param("/out-absolute/file", "ELOOP", id="absolute-link-outside"),
        pytest.param("/a/b/magic/etc/passwd", "ELOOP", id="by-proc"),
        pytest.param("/dangling", "ELOOP", id="dangling"),
        pytest.param("/loop", "ELOOP", id="loop"),
        pytest.param("/../outside/file", "ENOENT", id="above-the-root"),
        pytest.param("/a/../../outside/file", "ENOENT", id="above-the-root-later"),
        pytest.param("/nowhere/file", "ENOENT", id="missing"),
        pytest.param("/a/b/file/more", "ENOTDIR", id="in-a-file"),
    ],
)
def test_no_link_is_followed_and_the_root_is_not_left(tree: Path, path: str, error: str) -> None:
    before = os.listdir("/proc/self/fd")
    assert refusal(lambda: content_below(tree, path)) == error
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("path", ["/self/root/etc/passwd", "/self/cwd", "/self/exe", "/self/fd/0"])
def test_no_magic_link_of_proc_is_followed(path: str) -> None:
    assert refusal(lambda: content_below("/proc", path)) == "ELOOP"


# Copies of mounts.


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of an account's, on the machine's own file system."""
    path = tmp_path / "source"
    (path / "folder").mkdir(parents=True)
    (path / "file").write_text("meant")
    for each in (path, path / "folder", path / "file"):
        os.chown(each, OWNER, OWNER)
    (tmp_path / "target").mkdir()
    return path


def mounted(source: Path, target: Path, attributes: int, idmap: int | None = None) -> None:
    """One on the other."""
    held, onto = os.open(source, os.O_PATH), os.open(target, os.O_PATH)
    tree = mounts.clone(held, attributes, idmap)
    assert not os.get_inheritable(tree)
    mounts.attach(tree, onto)
    for descriptor in (held, onto, tree):
        os.close(descriptor)


def options_of(path: Path) -> set[str]:
    """The options of the mount at a path itself, not of its file system."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return next(set(line.split()[5].split(",")) for line in file if line.split()[4] == str(path))


@as_root
@pytest.mark.parametrize(
    "attributes, options",
    [
        pytest.param(0, set(), id="plain"),
        pytest.param(mounts.RDONLY, {"ro"}, id="read-only"),
        pytest.param(mounts.NOSUID | mounts.NODEV, {"nosuid", "nodev"}, id="nosuid"),
        pytest.param(mounts.RDONLY | mounts.NOSUID | mounts.NODEV, {"ro", "nosuid", "nodev"}, id="all"),
    ],
)
def test_attributes(source: Path, tmp_path: Path, attributes: int, options: set[str]) -> None:
    target = tmp_path / "target"

    def work() -> Any:
        mounted(source, target, attributes)
        return [
            sorted(options_of(target) & {"ro", "nosuid", "nodev"}),
            refusal((target / "new").touch),
            (target / "file").read_text(),
        ]

    assert apart(work) == [sorted(options), "EROFS" if "ro" in options else "done", "meant"]
    # On the host nothing is mounted there.
    assert os.listdir(target) == []


@as_root
def test_no_rights_come_by_a_file_of_a_mount(source: Path, tmp_path: Path) -> None:
    """Neither by its setuid bit nor by a device: that is what nosuid and nodev are for."""
    os.mknod(source / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    shutil.copy("/bin/sleep", source / "program")
    (source / "program").chmod(0o4755)

    def work() -> Any:
        mounted(source, tmp_path / "target", mounts.NOSUID | mounts.NODEV)
        flags = os.statvfs(tmp_path / "target").f_flag
        return [refusal(lambda: open(tmp_path / "target/device", "rb").close()), bool(flags & os.ST_NOSUID)]

    assert apart(work) == ["EACCES", True]


@as_root
def test_what_is_mounted_below_comes_along_with_the_same_attributes(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"

    def work() -> Any:
        mounts.temporary(str(source / "folder"), mode="777")
        (source / "folder/deep").touch()
        mounted(source, target, mounts.RDONLY)
        return [(target / "folder/deep").exists(), refusal((target / "folder/new").touch)]

    assert apart(work) == [True, "EROFS"]


@as_root
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_swap_of_the_path_after_it_was_opened_does_not_matter(source: Path, tmp_path: Path, kind: str) -> None:
    """Neither of what is mounted nor of what it is mounted on."""
    secret, goal = tmp_path / "secret", tmp_path / "goal"
    for folder in (secret, goal):
        folder.mkdir()
        (folder / "file").write_text("secret")
        (folder / "folder").mkdir()
        (folder / "folder/secret").touch()

    def work() -> Any:
        held, onto = os.open(source / kind, os.O_PATH), os.open(goal / kind, os.O_PATH)
        goal.rename(tmp_path / "moved")
        source.rename(tmp_path / "source-moved")
        source.symlink_to(secret)
        goal.symlink_to(secret)
        mounts.attach(mounts.clone(held, mounts.RDONLY), onto)
        moved = tmp_path / "moved" / kind
        return [
            moved.read_text() if kind == "file" else os.listdir(moved),
            (secret / "file").read_text(),
            os.listdir(secret / "folder"),
        ]

    assert apart(work) == ["meant" if kind == "file" else [], "secret", ["secret"]]


@as_root
def test_an_owner_is_seen_as_another_and_nobody_else_is(source: Path, tmp_path: Path) -> None:
    """All others are seen as themselves, so that ordinary bits decide of what is theirs."""
    target = tmp_path / "target"
    (source / "of-root").touch(mode=0o600)
    (source / "of-root-for-all").touch()
    (source / "of-root-for-all").chmod(0o666)
    (source / "of-others").touch(mode=0o600)
    os.chown(source / "of-others", OWNER + 1, OWNER - 1)

    def work() -> Any:
        mapping = mounts.idmap(BASE, OWNER, GROUP)
        mounted(source, target, mounts.NOSUID | mounts.NODEV, mapping)
        seen = {path.name: [path.stat().st_uid, path.stat().st_gid] for path in sorted(target.iterdir())}
        # The way there is root's alone.
        os.chdir(target)
        os.setgroups([])
        os.setresgid(SHIFTED_GROUP, SHIFTED_GROUP, SHIFTED_GROUP)
        os.setresuid(SHIFTED, SHIFTED, SHIFTED)
        os.close(os.open("new", os.O_WRONLY | os.O_CREAT, 0o600))
        names = ("of-root", "of-root-for-all", "of-others")
        return [seen, [refusal(functools.partial(write, name)) for name in names]]

    os.chown(source / "file", OWNER, GROUP)
    os.chown(source / "folder", OWNER, GROUP)
    os.chown(source, OWNER, GROUP)
    if isinstance(found := idmapped(work), str):
        pytest.skip(found)
    owner = [SHIFTED, SHIFTED_GROUP]
    seen = {"file": owner, "folder": owner, "of-root": [0, 0], "of-root-for-all": [0, 0], "of-others": [1001, 999]}
    assert found == [seen, ["EACCES", "done", "EACCES"]]
    # On the disk it is the account's own.
    assert ((source / "new").stat().st_uid, (source / "new").stat().st_gid) == (OWNER, GROUP)


def write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


@pytest.mark.parametrize("identity", [0, 1, 1000, 65534, 65535, (1 << 32) - 2 - 0x6FFF0000])
@pytest.mark.parametrize("base", [0x80000, 0x6FFF0000])
def test_a_map_has_every_id_at_most_once(base: int, identity: int) -> None:
    extents = mounts._extents(base, identity)
    assert (identity, base + identity, 1) in extents
    for which in (0, 1):
        ranges = sorted((extent[which], extent[which] + extent[2]) for extent in extents)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
        assert 0 <= ranges[0][0] < ranges[-1][1] <= (1 << 32) - 1
    # All but one are themselves, and what one is seen as is nobody else.
    assert all(first == seen for first, seen, _ in extents if first != identity)
    assert not any(first <= base + identity < first + size for first, _, size in extents)
    assert sum(size for *_, size in extents) == (1 << 32) - 2


@as_root
@pytest.mark.parametrize("uid, gid", [(0, 0), (OWNER, 0), (65535, 65535)])
def test_the_kernel_takes_the_map_of_any_account(uid: int, gid: int) -> None:
    def work() -> Any:
        mapping = mounts.idmap(0x6FFF0000, uid, gid)
        held = os.fstat(mapping).st_ino
        os.close(mapping)
        return held > 0

    assert apart(work) is True


def idmapped(work: Callable[[], Any]) -> Any:
    """The value, or why there is none: not every file system maps owners."""

    def attempt() -> Any:
        try:
            return work()
        except OSError as error:
            if error.errno == errno.EINVAL:
                return "this file system maps no owners"
            raise

    return apart(attempt)


@as_root
def test_a_file_system_that_maps_no_owners_is_told(tmp_path: Path) -> None:
    """And no half of a mount is left."""

    def work() -> Any:
        mapping = mounts.idmap(BASE, OWNER, GROUP)
        held = os.open("/proc", os.O_PATH)
        before = len(os.listdir("/proc/self/fd"))
        found = refusal(lambda: mounts.clone(held, 0, mapping))
        return [found, len(os.listdir("/proc/self/fd")) - before]

    assert apart(work) == ["EINVAL", 0]


@as_root
def test_a_mapping_leaves_no_process_and_one_descriptor() -> None:
    def work() -> Any:
        before = set(os.listdir("/proc/self/fd"))
        mapping = mounts.idmap(BASE, OWNER, GROUP)
        more = set(os.listdir("/proc/self/fd")) - before
        return [more == {str(mapping)}, procs.children(os.getpid()), os.get_inheritable(mapping)]

    assert apart(work) == [True, [], False]


# Mounts of its own.


@as_root
def test_nothing_of_it_is_seen_outside(tmp_path: Path) -> None:
    def work() -> Any:
        mounts.temporary(str(tmp_path), mode="750", size="1m", uid=OWNER, gid=OWNER, nr_inodes=3)
        status = tmp_path.stat()
        (tmp_path / "a").touch()
        (tmp_path / "b").touch()
        full = refusal((tmp_path / "c").touch)
        return [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, full, mounts.is_temporary(str(tmp_path))]

    (tmp_path / "before").touch()
    assert apart(work) == [0o750, OWNER, OWNER, "ENOSPC", True]
    assert os.listdir(tmp_path) == ["before"]


@as_root
def test_what_is_mounted_in_a_copy_does_not_appear_on_its_original(tmp_path: Path) -> None:
    """Also where the host's mounts are shared, as systemd has them."""

    def work() -> Any:
        shared = tmp_path / "shared"
        shared.mkdir()
        mounts.temporary(str(shared))
        libc.call("mount", b"none", os.fsencode(shared), None, 1 << 20, None)  # MS_SHARED
        (shared / "folder").mkdir()
        (tmp_path / "copy").mkdir()
        mounted(shared, tmp_path / "copy", 0)
        mounts.temporary(str(tmp_path / "copy/folder"))
        (tmp_path / "copy/folder/new").touch()
        return os.listdir(shared / "folder")

    assert apart(work) == []


def test_what_is_no_tmpfs() -> None:
    assert not mounts.is_temporary("/proc")


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no /dev/shm")
def test_what_is_a_tmpfs() -> None:
    assert mounts.is_temporary("/dev/shm")


# The calls themselves.


def test_a_call_that_fails_is_an_error_with_its_number() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        libc.call("close", -1)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)) as caught:
        libc.syscall(1 << 20)
    assert caught.value.errno == errno.ENOSYS


def test_a_call_that_does_not_fail_gives_its_value() -> None:
    assert libc.call("getpid") == os.getpid()
