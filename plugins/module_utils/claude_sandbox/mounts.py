# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Mounts made from descriptors, so that no path is looked up twice: once something is open it cannot be exchanged.

All of it needs CAP_SYS_ADMIN. The numbers are those of the kernel's headers (linux/mount.h, linux/openat2.h,
asm-generic/unistd.h: the same on every architecture) and need Linux 5.12.
"""

from __future__ import annotations

import ctypes
import os
import struct

from . import libc

RDONLY, NOSUID, NODEV = 0x1, 0x2, 0x4  # MOUNT_ATTR_*
_IDMAP = 0x100000

_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_EMPTY_PATH = 1, 0x8000, 0x1000
_FROM_EMPTY_PATH, _TO_EMPTY_PATH = 0x4, 0x40
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x2, 0x4, 0x10
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE, _MS_SLAVE = 0x2, 0x4, 0x4000, 0x40000, 0x80000
_TMPFS_MAGIC = 0x01021994
_LAST_ID = (1 << 32) - 2
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000


def clone(source: int, attributes: int, idmap: int | None = None) -> int:
    """A detached copy of the mount that a descriptor leads to, what is mounted below it included.

    attributes: MOUNT_ATTR_* for all of it. idmap: a user namespace through which owners are seen. Raises OSError:
    EINVAL where a file system of it knows no such mapping.
    """
    tree = libc.syscall(_OPEN_TREE, source, b"", _OPEN_TREE_CLONE | _AT_RECURSIVE | _AT_EMPTY_PATH | os.O_CLOEXEC)
    flags, namespace = (attributes, 0) if idmap is None else (attributes | _IDMAP, idmap)
    # A copy belongs to the group of its original: without this, what is mounted on it would appear on the host, too.
    wanted = struct.pack("=QQQQ", flags, 0, _MS_PRIVATE, namespace)
    try:
        libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, wanted, len(wanted))
    except OSError:
        os.close(tree)
        raise
    return tree


def attach(tree: int, target: int) -> None:
    """Mount a detached copy on what a descriptor leads to."""
    libc.syscall(_MOVE_MOUNT, tree, b"", target, b"", _FROM_EMPTY_PATH | _TO_EMPTY_PATH)


def below(root: int, path: str, flags: int = os.O_PATH) -> int:
    """A descriptor of an absolute path as seen from a root, on the way to which there is no symbolic link.

    Raises OSError: ELOOP where there is one.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_IN_ROOT)
    return libc.syscall(_OPENAT2, root, os.fsencode(path), how, len(how))


def temporary(path: str, **options: object) -> None:
    """Mount an empty tmpfs; options as in tmpfs(5)."""
    words = ",".join(f"{key}={value}" for key, value in options.items())
    libc.call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", _MS_NOSUID | _MS_NODEV, words.encode())


def is_temporary(path: str) -> bool:
    """Whether what is at a path lies on a tmpfs."""
    buffer = (ctypes.c_long * 32)()  # struct statfs begins with the type
    libc.call("statfs", os.fsencode(path), buffer)
    return int(buffer[0]) == _TMPFS_MAGIC


def detach_this_process() -> None:
    """Give this process mounts of its own: it sees what the host mounts later, and the host none of its."""
    libc.call("unshare", _CLONE_NEWNS)
    libc.call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None)


def _extents(base: int, identity: int) -> list[tuple[int, int, int]]:
    """The lines of such a map, user_namespaces(7): first id on disk, first id that is seen, how many."""
    shown = base + identity
    extents = [
        (0, 0, identity),
        (identity, shown, 1),
        (identity + 1, identity + 1, shown - identity - 1),
        (shown + 1, shown + 1, _LAST_ID - shown),
    ]
    return [extent for extent in extents if extent[2] > 0]


def idmap(base: int, uid: int, gid: int) -> int:
    """A user namespace (its descriptor) as `clone` takes it: of all owners one is seen as another, `base` above it.

    What belongs to all others still does: the kernel lets nobody write what belongs to an id without a meaning.
    """
    ready, ready_end = os.pipe()
    done_end, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            libc.call("unshare", _CLONE_NEWUSER)
            os.write(ready_end, b"x")
            os.close(done)
            os.read(done_end, 1)
        finally:
            os._exit(0)
    try:
        os.close(ready_end)
        if not os.read(ready, 1):
            raise OSError("a user namespace cannot be made")
        for name, identity in (("uid_map", uid), ("gid_map", gid)):
            with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
                file.write("\n".join(" ".join(map(str, extent)) for extent in _extents(base, identity)))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (ready, done, done_end):
            os.close(descriptor)
        os.waitpid(child, 0)
