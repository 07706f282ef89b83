"""Attempts at the kernel: its system calls, mounts, namespaces, devices and switches."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import mmap
import os
import platform
import pty
import stat
import struct
import termios
from collections.abc import Sequence
from typing import Any

from .attempt import attempt, call, contents, outcome, pids, syscall

_KEYCTL = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_I386_KEYCTL, _X32_BIT, _X86_GETPID = 288, 0x40000000, 39
_SESSION_KEYRING, _GET_ID, _DESCRIBE, _SEARCH, _READ = -3, 0, 6, 10, 11
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWCGROUP, _CLONE_NEWPID = 0x20000, 0x10000000, 0x02000000, 0x20000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_MOVE, _MS_REC = 1, 32, 4096, 8192, 16384
_MNT_DETACH = 2
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AT_RECURSIVE, _OPEN_TREE_CLONE, _AT_FDCWD = 0x8000, 1, -100
_RENAME_EXCHANGE = 2
_MOUNT_ATTR_RDONLY = 1
_CLONE_NEWNET = 0x40000000
_IO_URING_SETUP = 425
_OPEN_BY_HANDLE_AT = {"x86_64": 304, "aarch64": 265}
_SYSLOG_READ_ALL = 3
_TUNSETIFF, _IFF_TAP = 0x400454CA, 0x1002
_FAMILIES = 46  # address families that Linux knows
_USUAL_FAMILIES = (1, 2, 10, 16)  # UNIX, INET, INET6, NETLINK
# Calls that the kernel refuses at once for their arguments, where nothing refuses them before.
_CALLS = {
    "bpf": {"x86_64": 321, "aarch64": 280},
    "perf_event_open": {"x86_64": 298, "aarch64": 241},
    "userfaultfd": {"x86_64": 323, "aarch64": 282},
    "fanotify_init": {"x86_64": 300, "aarch64": 262},
    "kcmp": {"x86_64": 312, "aarch64": 272},
    "kexec_load": {"x86_64": 246, "aarch64": 104},
    "init_module": {"x86_64": 175, "aarch64": 105},
    "swapon": {"x86_64": 167, "aarch64": 224},
    "acct": {"x86_64": 163, "aarch64": 89},
    "quotactl": {"x86_64": 179, "aarch64": 60},
    "lookup_dcookie": {"x86_64": 212, "aarch64": 18},
    "open_by_handle_at": _OPEN_BY_HANDLE_AT,
    "io_uring_setup": {"x86_64": 425, "aarch64": 425},
    "fsopen": {"x86_64": 430, "aarch64": 430},
    "pidfd_getfd": {"x86_64": 438, "aarch64": 438},
    "memfd_secret": {"x86_64": 447, "aarch64": 447},
    "lsm_set_self_attr": {"x86_64": 460, "aarch64": 460},
}


def rename_exchange(one: str, other: str) -> None:
    """Have two names change places at once."""
    syscall(_RENAMEAT2[platform.machine()], _AT_FDCWD, one.encode(), _AT_FDCWD, other.encode(), _RENAME_EXCHANGE)


# Keys


@attempt
def session_key(description: str) -> dict[str, Any]:
    """The payload of a key in the session's keyring, and whether /proc names it."""
    anew = "".join(found for _, found in in_child(_keys_by_new_proc))
    return {
        "payload": _payload(description),
        "keyring": outcome(lambda: _keyctl(_GET_ID, _SESSION_KEYRING, 0)),
        "listed": description in _listed_keys("/proc") + anew,
    }


def _listed_keys(proc: str) -> str:
    with contextlib.suppress(OSError):
        return contents(f"{proc}/keys")
    return ""


def _keys_by_new_proc() -> dict[str, str]:
    """What covers a file of /proc does not cover it in another /proc."""
    enter_own_user_namespace(_CLONE_NEWNS | _CLONE_NEWPID)
    return dict(in_child(_keys_in_new_proc))


def _keys_in_new_proc() -> dict[str, str]:
    place = "/tmp/probe-proc"
    os.makedirs(place, exist_ok=True)
    call("mount", b"none", place.encode(), b"proc", 0, None)
    return {"keys": _listed_keys(place)}


def _payload(description: str) -> str:
    with contextlib.suppress(OSError):
        key = _keyctl(_SEARCH, _SESSION_KEYRING, b"user", description.encode(), 0)
        buffer = ctypes.create_string_buffer(256)
        return buffer.raw[: _keyctl(_READ, key, buffer, 256)].decode("latin-1")
    return ""


def _keyctl(operation: int, *arguments: object) -> int:
    return syscall(_KEYCTL[platform.machine()][2], operation, *arguments)


@attempt
def keys_by_foreign_abi() -> dict[str, int]:
    """keyctl by the tables of i386 and x32, which a filter for x86_64 alone would let pass: what each returns."""
    if platform.machine() != "x86_64":
        return {}
    found = {"i386": _int80(_I386_KEYCTL, _GET_ID, _SESSION_KEYRING & 0xFFFFFFFF, 0)}
    with contextlib.suppress(OSError):
        found["x32"] = syscall(_X32_BIT | _X86_GETPID)
    return found


def _int80(number: int, *arguments: int) -> int:
    """A system call by the gate of 32-bit programs."""
    code = b"\x53\xb8" + struct.pack("<I", number)  # push rbx; mov eax, number
    for register, value in zip((b"\xbb", b"\xb9", b"\xba"), arguments, strict=True):
        code += register + struct.pack("<I", value)
    code += b"\xcd\x80\x5b\x48\x98\xc3"  # int 0x80; pop rbx; cdqe; ret
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return int(ctypes.CFUNCTYPE(ctypes.c_long)(address)())


# Terminals


@attempt
def type_into_terminal(text: str) -> dict[str, str]:
    """TIOCSTI on a terminal of one's own: what then stands in its input; and what TIOCLINUX says."""
    reader, writer = os.pipe()
    child, master = pty.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, _typed(text).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        typed = pipe.read()
    os.waitpid(child, 0)
    linux = outcome(lambda: fcntl.ioctl(master, _TIOCLINUX, b"\x06"))
    os.close(master)
    return {"typed": typed, "linux": linux}


def _typed(text: str) -> str:
    settings = termios.tcgetattr(0)
    settings[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(0, termios.TCSANOW, settings)
    os.set_blocking(0, False)
    with contextlib.suppress(OSError):
        for character in text.encode():
            fcntl.ioctl(0, _TIOCSTI, bytes([character]))
        return os.read(0, 100).decode()
    return ""


# Mounts and namespaces


@attempt
def mounts(readonly: str, target: str, text: str) -> dict[str, str]:
    """Make read-only mounts writable, or take them away, and write to `target` below; first as is, then with the
    capabilities of a user namespace of one's own."""
    plain = _mount_tricks(readonly, target, text)
    return plain | {f"nested {name}": result for name, result in in_child(lambda: _nested(readonly, target, text))}


def in_child(work: Any) -> list[tuple[str, Any]]:
    """What a function says in a child of its own, whose namespaces it may change."""
    import json

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return list(json.loads(text).items()) if text else [("failed", "no answer")]


def _nested(readonly: str, target: str, text: str) -> dict[str, str]:
    try:
        enter_own_user_namespace(_CLONE_NEWNS)
    except OSError as error:
        return {"namespace": str(error)}
    return _mount_tricks(readonly, target, text)


def enter_own_user_namespace(others: int) -> None:
    """All capabilities, in a user namespace in which this account is what it was."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", _CLONE_NEWUSER | others)
    for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        # Where root may not map itself it is nobody by name, with all capabilities nonetheless.
        with contextlib.suppress(PermissionError), open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(content)


def _mount_tricks(readonly: str, target: str, text: str) -> dict[str, str]:
    def append() -> None:
        with open(target, "a", encoding="utf-8") as file:
            file.write(text)

    mounted, path = readonly.encode(), b"/tmp/probe-mount"
    os.makedirs(path, exist_ok=True)
    tricks = {
        "remount": lambda: call("mount", None, mounted, None, _MS_REMOUNT | _MS_BIND, None),
        "remount superblock": lambda: call("mount", None, mounted, None, _MS_REMOUNT, None),
        "setattr": lambda: _setattr_writable(mounted),
        "unmount": lambda: call("umount2", mounted, _MNT_DETACH),
        "unmount file": lambda: call("umount2", target.encode(), _MNT_DETACH),
        "bind without what is below": lambda: call("mount", b"/", path, None, _MS_BIND, None),
        "clone without what is below": lambda: _clone_tree(b"/", path),
        "tmpfs": lambda: call("mount", b"none", path, b"tmpfs", 0, None),
        "proc": lambda: call("mount", b"none", path, b"proc", 0, None),
        "sysfs": lambda: call("mount", b"none", path, b"sysfs", 0, None),
        "pivot_root": lambda: syscall(_PIVOT_ROOT[platform.machine()], b"/", b"/"),
        "setns": _join_first,
    }
    found = {name: outcome(trick) for name, trick in tricks.items()}
    found["write"] = outcome(append)
    with contextlib.suppress(OSError):
        found["content"] = contents(target)
    return found


def _setattr_writable(path: bytes) -> None:
    attributes = struct.pack("=QQQQ", 0, _MOUNT_ATTR_RDONLY, 0, 0)
    syscall(_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, attributes, len(attributes))


def _clone_tree(source: bytes, target: bytes) -> None:
    tree = syscall(_OPEN_TREE, _AT_FDCWD, source, _OPEN_TREE_CLONE)
    syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target, 4)


def _join_first() -> None:
    with open("/proc/1/ns/mnt", "rb") as namespace:
        call("setns", namespace.fileno(), 0)


@attempt
def foreign_namespaces() -> list[str]:
    """Namespaces of visible processes that are not this one's own, and that can be opened."""
    found = []
    for pid in pids():
        for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user"):
            with contextlib.suppress(OSError):
                own, other = os.stat(f"/proc/self/ns/{kind}"), os.stat(f"/proc/{pid}/ns/{kind}")
                if own.st_ino != other.st_ino:
                    found.append(f"{pid} {kind}")
    return found


@attempt
def beneath(path: str) -> dict[str, str]:
    """Read a file that is in no mount here, from what may lie under the root: a root that was moved there covers it."""
    ways = (_plainly, _by_going_up, _unmounted_root, _moved_root, _cloned_root, _pivoted_root, _joined_anew)
    found = {way.__name__: in_child(functools.partial(_found_by, way, path)) for way in ways}
    return {name: "".join(text for _, text in answers) for name, answers in found.items()}


def _found_by(way: Any, path: str) -> dict[str, str]:
    found = {}
    with contextlib.suppress(OSError):
        way()
    for top in ("", "/tmp/probe-beneath"):
        with contextlib.suppress(OSError):
            found[top] = contents(f"{top}{path}")
    with contextlib.suppress(OSError):
        found["here"] = contents(path.lstrip("/"))
    return found


def _plainly() -> None:
    pass


def _place_beneath() -> bytes:
    enter_own_user_namespace(_CLONE_NEWNS)
    os.makedirs("/tmp/probe-beneath", exist_ok=True)
    return b"/tmp/probe-beneath"


def _by_going_up() -> None:
    """The oldest way out of a chroot: a directory above one's root."""
    place = _place_beneath()
    above = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.chroot(place)
    os.fchdir(above)
    os.chdir("/".join([".."] * 40))
    os.chroot(".")


def _unmounted_root() -> None:
    _place_beneath()
    call("umount2", b"/", _MNT_DETACH)
    os.chroot("/")


def _moved_root() -> None:
    call("mount", b"/", _place_beneath(), None, _MS_MOVE, None)
    os.chroot("/")


def _cloned_root() -> None:
    _clone_tree(b"/", _place_beneath())


def _pivoted_root() -> None:
    place = _place_beneath()
    call("mount", b"none", place, b"tmpfs", 0, None)
    os.mkdir(place + b"/old")
    os.chdir(place)
    syscall(_PIVOT_ROOT[platform.machine()], b".", b"old")
    call("umount2", b"/old", _MNT_DETACH)
    call("umount2", b"/", _MNT_DETACH)
    os.chroot("/")


def _joined_anew() -> None:
    """Who joins a mount namespace gets its own root, and not the one that its processes have."""
    _place_beneath()
    with open("/proc/self/ns/mnt", "rb") as namespace:
        call("setns", namespace.fileno(), _CLONE_NEWNS)


# Switches


@attempt
def set_switch(path: str, value: str) -> str:
    """Write to a file of /proc."""

    def write() -> None:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)

    return outcome(write)


@attempt
def open_for_writing(paths: Sequence[str]) -> list[str]:
    """Those that can be opened for writing; nothing is written."""
    return [path for path in paths if outcome(_open, path, os.O_WRONLY) == "ok"]


@attempt
def root_only_in_proc() -> dict[str, int]:
    """What in /proc others may not read, and can be read here: how many bytes at the beginning."""
    found = {}
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and not status.st_mode & stat.S_IROTH:
                found[entry.path] = len(contents(entry.path))
    return {path: size for path, size in found.items() if size}


@attempt
def make_cgroup(name: str) -> dict[str, str]:
    """Make a cgroup: where the host has them, and where a namespace of one's own lets one mount them."""

    def make(top: str) -> None:
        os.mkdir(f"{top}/{name}")

    found = {top: outcome(make, top) for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")}
    return found | dict(in_child(lambda: _mount_cgroup(name)))


def _mount_cgroup(name: str) -> dict[str, str]:
    path = "/tmp/probe-cgroup"
    os.makedirs(path, exist_ok=True)
    enter_own_user_namespace(_CLONE_NEWNS | _CLONE_NEWCGROUP)
    mounted = outcome(lambda: call("mount", b"none", path.encode(), b"cgroup2", 0, None))
    return {"mounted": mounted, "mounted make": outcome(lambda: os.mkdir(f"{path}/{name}"))}


@attempt
def devices(paths: Sequence[str]) -> list[str]:
    """The device nodes that can be opened."""
    return [path for path in paths if outcome(_open, path, os.O_RDONLY) == "ok"]


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


@attempt
def make_device(folder: str) -> str:
    """Make a node for the kernel's memory, and open it."""
    path = f"{folder}/probe-node"

    def make() -> None:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.close(os.open(path, os.O_RDONLY))

    try:
        return outcome(make)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


# What else of the kernel is told, or to be had


@attempt
def kernel_log() -> dict[str, int]:
    """How much of the kernel's log can be read: by its system call, by its device, in /proc."""
    found = {}
    buffer = ctypes.create_string_buffer(4096)
    with contextlib.suppress(OSError):
        call("klogctl", _SYSLOG_READ_ALL, buffer, len(buffer))
        found["call"] = len(buffer.value)
    for path in ("/dev/kmsg", "/proc/kmsg"):
        with contextlib.suppress(OSError):
            found[path] = len(contents(path))
    return {name: size for name, size in found.items() if size}


@attempt
def kernel_addresses() -> list[str]:
    """Where in memory the kernel's functions are, as far as /proc tells."""
    with contextlib.suppress(OSError):
        return [line for line in contents("/proc/kallsyms").splitlines() if int(line.split()[0], 16)][:3]
    return []


@attempt
def sysfs() -> dict[str, list[str]]:
    """What of /sys can be seen: as it is, with what covers it taken away, and mounted anew."""
    return {"plain": _sysfs("/sys")} | dict(in_child(_nested_sysfs))


def _sysfs(top: str) -> list[str]:
    found = []
    for name in ("kernel", "devices", "class/net", "fs/cgroup"):
        with contextlib.suppress(OSError):
            found += [f"{top}/{name}/{entry}" for entry in os.listdir(f"{top}/{name}")]
    return found


def _nested_sysfs() -> dict[str, list[str]]:
    found = {}
    enter_own_user_namespace(_CLONE_NEWNS | _CLONE_NEWNET)
    place = "/tmp/probe-sysfs"
    os.makedirs(place, exist_ok=True)
    ways = {
        "unmounted": lambda: call("umount2", b"/sys", _MNT_DETACH),
        "mounted": lambda: call("mount", b"none", place.encode(), b"sysfs", 0, None),
        "bound": lambda: call("mount", b"/sys", place.encode(), None, _MS_BIND, None),
        "cloned": lambda: _clone_tree(b"/sys", place.encode()),
    }
    for name, way in ways.items():
        outcome(way)
        found[name] = _sysfs("/sys") + _sysfs(place)
    return found


@attempt
def rings() -> str:
    """Make an io_uring, by which the kernel is called past a filter of system calls."""
    return outcome(lambda: os.close(syscall(_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))))


@attempt
def families() -> list[int]:
    """The families of sockets that can be opened, besides those that everybody needs."""
    import socket

    found = []
    for family in set(range(_FAMILIES)) - set(_USUAL_FAMILIES):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            with contextlib.suppress(OSError):
                socket.socket(family, kind, 0).close()
                found.append(family)
    return sorted(set(found))


@attempt
def calls_that_pass() -> dict[str, str]:
    """What is answered to system calls that mean nothing: by it one filter is told from another."""
    numbers = {name: known[platform.machine()] for name, known in _CALLS.items() if platform.machine() in known}
    return {name: outcome(syscall, number, -1, -1, -1, -1, -1) for name, number in numbers.items()}


@attempt
def open_by_handle(folder: str, handle: str, kind: int) -> dict[str, str]:
    """Open a file by its number in a file system of which only a folder is here; in a namespace of one's own, too."""
    plain = {"plain": _by_handle(folder, handle, kind)}
    return plain | dict(in_child(lambda: _nested_handle(folder, handle, kind)))


def _nested_handle(folder: str, handle: str, kind: int) -> dict[str, str]:
    enter_own_user_namespace(_CLONE_NEWNS)
    return {"nested": _by_handle(folder, handle, kind)}


def _by_handle(folder: str, handle: str, kind: int) -> str:
    data = bytes.fromhex(handle)
    packed = struct.pack("=Ii", len(data), kind) + data
    mount = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        opened = syscall(_OPEN_BY_HANDLE_AT[platform.machine()], mount, packed, os.O_RDONLY)
        with open(opened, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        return str(error)
    finally:
        os.close(mount)


@attempt
def tunnel(name: str) -> str:
    """Make a network interface by /dev/net/tun."""

    def make() -> None:
        device = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP))
        finally:
            os.close(device)

    return outcome(make)


@attempt
def terminals() -> list[int]:
    """The file systems of all terminals that can be got at: one's own, those of others here, and a new one."""
    found = set()
    paths = ["/dev/console", "/dev/tty", *(f"/dev/pts/{name}" for name in os.listdir("/dev/pts") if name != "ptmx")]
    paths += [f"/proc/{pid}/fd/{number}" for pid in pids() for number in range(3)]
    for path in paths:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            if os.isatty(descriptor):
                found.add(os.stat(os.ttyname(descriptor)).st_dev)
                found.add(os.fstat(descriptor).st_dev)
            os.close(descriptor)
    with contextlib.suppress(OSError):
        master, slave = pty.openpty()
        found.add(os.fstat(slave).st_dev)
        os.close(master)
        os.close(slave)
    return sorted(found)
