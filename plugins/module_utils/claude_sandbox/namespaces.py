# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Joining the namespaces of a running sandbox, and giving up there what its agent has not.

The constants are those of the kernel's headers: linux/nsfs.h, linux/prctl.h, linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import sys

from . import libc

_NS_GET_USERNS = 0xB701
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_LAST_CAPABILITY = 63
# The mount namespace comes first: its owner tells in which order they can be joined.
_KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _import_nothing() -> None:
    """From here on this process loads no code: Python would look for it among files that are not the host's."""
    for places in (sys.path, sys.meta_path, sys.path_hooks):
        places.clear()
    sys.path_importer_cache.clear()


def join(pid: int) -> None:
    """Move this process into all namespaces of another; its next child is in the pid namespace too.

    The account must own the sandbox, or be root. Raises OSError. The process must have one thread only.
    """
    _import_nothing()
    user = _foreign(pid, "user")
    others = [descriptor for kind in _KINDS if (descriptor := _foreign(pid, kind)) is not None]
    if user is not None and others:
        owner = fcntl.ioctl(others[0], _NS_GET_USERNS)
        if os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino:
            # systemd-nspawn makes the mounts before the user namespace, in which there is no right to join them.
            others = [*others, user]
        elif os.fstat(owner).st_ino != os.fstat(user).st_ino:
            # bwrap may have made a second user namespace inside the first, which owns the other namespaces.
            others = [owner, *others, user]
        else:
            others = [user, *others]
    for descriptor in others:
        libc.call("setns", descriptor, 0)
        os.close(descriptor)


def join_mounts(pid: int) -> None:
    """Move this process among the mounts of another, with the rights that it has outside. Raises OSError."""
    _import_nothing()
    descriptor = _foreign(pid, "mnt")
    if descriptor is not None:
        libc.call("setns", descriptor, 0)
        os.close(descriptor)


def _foreign(pid: int, kind: str) -> int | None:
    """A descriptor of the namespace of that kind, or None where this process is in it already."""
    descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(descriptor).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino:
        os.close(descriptor)
        return None
    return descriptor


def give_up_privileges(filter_program: bytes | None) -> None:
    """No capability after the next execve, none by way of a setuid file, and the filter on system calls."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            libc.call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                # The kernel knows no more of them.
                break
            raise
    libc.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if filter_program is not None:
        filter_calls(filter_program)


def filter_calls(filter_program: bytes) -> None:
    """Have this process and its children run under a filter of system calls (see seccomp.program).

    Needs no_new_privs, or root. Raises OSError.
    """
    program = _Program(len(filter_program) // 8, filter_program)
    libc.call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel kill this process, or send it another signal, when its parent ends, or has ended before.

    The latter cannot be told of a parent in another pid namespace, nor where this module was loaded after the fork.
    """
    libc.call("prctl", _PR_SET_PDEATHSIG, number, 0, 0, 0)
    if _forked_by and os.getppid() not in (0, _forked_by):
        os.kill(os.getpid(), number)


_forking = _forked_by = 0  # the pid of this process when it last forked, and of who has forked this process


def _before_fork() -> None:
    global _forking  # noqa: PLW0603 - what a child is to know of its parent
    _forking = os.getpid()


def _after_fork() -> None:
    global _forked_by  # noqa: PLW0603 - a process has one parent that has made it
    _forked_by = _forking


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def same_file(source: str, root: str, target: str) -> bool:
    """Whether `target` under `root` is the same file as `source`, with no symbolic link on either way."""
    try:
        return _identity("/", source) == _identity(root, target)
    except OSError:
        return False


def _identity(root: str, path: str) -> tuple[int, int]:
    descriptor = walked(root, path)
    try:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino
    finally:
        os.close(descriptor)


def walked(root: str, path: str) -> int:
    """A descriptor (O_PATH) of a path under a root, on the way to which no link is followed. Raises OSError.

    It may be of a link, where the path itself is one.
    """
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in path.strip("/").split("/"):
        try:
            # A link is opened itself, and then is no directory to go on from.
            deeper = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = deeper
    return descriptor
