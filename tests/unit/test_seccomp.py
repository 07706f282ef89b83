"""The filter of system calls: interpreted here as the kernel would, and tried for real."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import functools
import os
import platform
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import namespaces, procs, seccomp

X86_64, AARCH64, I386, ARM = 0xC000003E, 0xC00000B7, 0x40000003, 0x40000028
ALLOWED = 0x7FFF0000
IO_URING = {"setup": 425, "enter": 426, "register": 427}
FAMILIES = {"UNSPEC": 0, "UNIX": 1, "INET": 2, "INET6": 10, "NETLINK": 16}
OTHER_FAMILIES = {"IPX": 4, "KEY": 15, "PACKET": 17, "BLUETOOTH": 31, "ALG": 38, "VSOCK": 40, "XDP": 44, "odd": 1 << 31}
TIOCSTI, TIOCLINUX, TIOCGWINSZ, TCGETS = 0x5412, 0x541C, 0x5413, 0x5401


def refused(number: int) -> int:
    """What a filter returns for a call that fails with this error."""
    return 0x00050000 | number


@dataclasses.dataclass(frozen=True)
class Call:
    """struct seccomp_data of seccomp(2)."""

    number: int
    arch: int
    arguments: tuple[int, ...] = ()

    def packed(self) -> bytes:
        arguments = [*self.arguments, 0, 0, 0, 0, 0, 0][:6]
        return struct.pack("<IIQ6Q", self.number, self.arch, 0x7F0000001000, *arguments)


def interpreted(program: bytes, call: Call) -> int:
    """What the kernel's classic BPF makes of a call."""
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    data, accumulator, at = call.packed(), 0, 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            at += if_true if accumulator == value else if_false
        elif operation == 0x35:  # BPF_JMP | BPF_JGE | BPF_K
            at += if_true if accumulator >= value else if_false
        elif operation == 0x45:  # BPF_JMP | BPF_JSET | BPF_K
            at += if_true if accumulator & value else if_false
        elif operation == 0x06:  # BPF_RET | BPF_K
            return int(value)
        else:
            raise AssertionError(f"an unknown operation: {operation:#x}")


@dataclasses.dataclass(frozen=True)
class Machine:
    """The numbers of asm/unistd.h that matter.

    modes: a call's number, and which of its arguments is a mode. opens: the same with that of the flags before it.
    """

    arch: int
    ioctl: int
    socket: int
    keyring: dict[str, int]
    harmless: dict[str, int]
    administration: dict[str, int]
    modes: dict[str, tuple[int, int]]
    opens: dict[str, tuple[int, int, int]]


OPENAT2 = 437
EVERYWHERE = {"pidfd_getfd": 438, "quotactl_fd": 443, "memfd_secret": 447}


MACHINES = {
    "x86_64": Machine(
        X86_64,
        16,
        41,
        {"add_key": 248, "request_key": 249, "keyctl": 250},
        {"read": 0, "fcntl": 72, "sysinfo": 99, "waitid": 247, "ioprio_set": 251, "clone3": 435, "last": 0x3FFFFFFF},
        {
            "bpf": 321,
            "perf_event_open": 298,
            "userfaultfd": 323,
            "open_by_handle_at": 304,
            "kexec_load": 246,
            "kexec_file_load": 320,
            "init_module": 175,
            "delete_module": 176,
            "finit_module": 313,
            "quotactl": 179,
            "swapon": 167,
            "swapoff": 168,
            "acct": 163,
            "reboot": 169,
            "lookup_dcookie": 212,
            "syslog": 103,
            "iopl": 172,
            "ioperm": 173,
            **EVERYWHERE,
        },
        {
            "chmod": (90, 1),
            "fchmod": (91, 1),
            "fchmodat": (268, 2),
            "fchmodat2": (452, 2),
            "creat": (85, 1),
            "mknod": (133, 1),
            "mknodat": (259, 2),
        },
        {"open": (2, 1, 2), "openat": (257, 2, 3)},
    ),
    "aarch64": Machine(
        AARCH64,
        29,
        198,
        {"add_key": 217, "request_key": 218, "keyctl": 219},
        {"io_setup": 0, "inotify_rm_watch": 28, "brk": 214, "clone": 220, "clone3": 435, "last": 0x3FFFFFFF},
        {
            "bpf": 280,
            "perf_event_open": 241,
            "userfaultfd": 282,
            "open_by_handle_at": 265,
            "kexec_load": 104,
            "kexec_file_load": 294,
            "init_module": 105,
            "delete_module": 106,
            "finit_module": 273,
            "quotactl": 60,
            "swapon": 224,
            "swapoff": 225,
            "acct": 89,
            "reboot": 142,
            "lookup_dcookie": 18,
            "syslog": 116,
            **EVERYWHERE,
        },
        {"fchmod": (52, 1), "fchmodat": (53, 2), "fchmodat2": (452, 2), "mknodat": (33, 2)},
        {"openat": (56, 2, 3)},
    ),
}
MODES = {
    0o755: ALLOWED,
    0o1777: ALLOWED,  # the sticky bit gives nobody anything
    0: ALLOWED,
    # The kinds of a file, which have bits next to those.
    stat.S_IFREG | 0o600: ALLOWED,
    stat.S_IFIFO | 0o777: ALLOWED,
    stat.S_IFBLK | 0o777: ALLOWED,
    0o4755: refused(errno.EPERM),
    0o2755: refused(errno.EPERM),
    0o6000: refused(errno.EPERM),
    0o7777: refused(errno.EPERM),
    stat.S_IFREG | 0o4755: refused(errno.EPERM),
    # The kernel looks at 16 bits of a mode only.
    0xFFFF0000 | 0o4755: refused(errno.EPERM),
    (0xDEAD << 32) | 0o4755: refused(errno.EPERM),
    (0o4000 << 32) | 0o755: ALLOWED,
}
O_CREAT, O_TMPFILE, O_EXCL = 0o100, 0o20000000, 0o200
MAKING = {"O_CREAT": O_CREAT, "O_CREAT-and-more": O_CREAT | os.O_WRONLY | O_EXCL, "O_TMPFILE": O_TMPFILE | os.O_RDWR}
NOT_MAKING = {"O_RDONLY": 0, "O_EXCL": O_EXCL, "all-others": 0xFFFFFFFF & ~(O_CREAT | O_TMPFILE)}
UPPER_BITS = 0xDEAD << 32


def arguments(values: dict[int, int]) -> tuple[int, ...]:
    """Six arguments, of which those that are not said have every bit."""
    return tuple(values.get(at, (1 << 64) - 1) for at in range(6))


CASES = [
    case
    for name, machine in MACHINES.items()
    for case in (
        *(
            pytest.param(name, Call(number, machine.arch), refused(errno.EPERM), id=f"{name}-{call}")
            for call, number in machine.keyring.items()
        ),
        # By these a program calls the kernel past every filter.
        *(
            pytest.param(name, Call(number, machine.arch), refused(errno.ENOSYS), id=f"{name}-io_uring-{call}")
            for call, number in IO_URING.items()
        ),
        *(
            pytest.param(name, Call(machine.socket, machine.arch, (family, 1)), ALLOWED, id=f"{name}-socket-{word}")
            for word, family in FAMILIES.items()
        ),
        *(
            pytest.param(
                name,
                Call(machine.socket, machine.arch, (family, 1)),
                refused(errno.EAFNOSUPPORT),
                id=f"{name}-socket-{word}",
            )
            for word, family in OTHER_FAMILIES.items()
        ),
        *(
            pytest.param(name, Call(number, machine.arch, (1, TIOCSTI)), ALLOWED, id=f"{name}-{call}")
            for call, number in machine.harmless.items()
        ),
        *(
            pytest.param(name, Call(machine.ioctl, machine.arch, (0, request)), answer, id=f"{name}-ioctl-{word}")
            for word, request, answer in (
                ("TIOCSTI", TIOCSTI, refused(errno.EPERM)),
                ("TIOCLINUX", TIOCLINUX, refused(errno.EPERM)),
                # The kernel looks at 32 bits of the request only.
                ("TIOCSTI-upper-bits", (0xDEAD << 32) | TIOCSTI, refused(errno.EPERM)),
                ("TIOCGWINSZ", TIOCGWINSZ, ALLOWED),
                ("TCGETS", TCGETS, ALLOWED),
                ("none", 0, ALLOWED),
            )
        ),
        pytest.param(
            name, Call(machine.ioctl, machine.arch, (TIOCSTI, TCGETS, TIOCSTI)), ALLOWED, id=f"{name}-other-argument"
        ),
        # Its arguments are behind a pointer: what refuses it has programs call openat instead.
        pytest.param(name, Call(OPENAT2, machine.arch, arguments({})), refused(errno.ENOSYS), id=f"{name}-openat2"),
        *(
            pytest.param(name, Call(number, machine.arch, arguments({})), refused(errno.EPERM), id=f"{name}-{call}")
            for call, number in machine.administration.items()
        ),
        *(
            pytest.param(name, Call(number, machine.arch, arguments({at: mode})), answer, id=f"{name}-{call}-{mode:o}")
            for call, (number, at) in machine.modes.items()
            for mode, answer in MODES.items()
        ),
        *(
            pytest.param(
                name,
                Call(number, machine.arch, arguments({flags_at: UPPER_BITS | flags, mode_at: mode})),
                answer if word in MAKING else ALLOWED,
                id=f"{name}-{call}-{word}-{mode:o}",
            )
            for call, (number, flags_at, mode_at) in machine.opens.items()
            for word, flags in (MAKING | NOT_MAKING).items()
            for mode, answer in MODES.items()
        ),
        # Foreign tables have other numbers for the same calls, so all of them are refused.
        *(
            pytest.param(name, Call(number, arch), refused(errno.ENOSYS), id=f"{name}-foreign-{arch:x}-{number}")
            for arch in {X86_64, AARCH64, I386, ARM} - {machine.arch}
            for number in (0, machine.ioctl, 288)
        ),
        *(
            pytest.param(
                name, Call(0x40000000 | number, machine.arch), refused(errno.ENOSYS), id=f"{name}-x32-{number}"
            )
            for number in (0, 250, 514)
        ),
    )
]


@pytest.mark.parametrize("name, call, answer", CASES)
def test_answer(name: str, call: Call, answer: int) -> None:
    program = seccomp.program(name)
    assert program is not None
    assert interpreted(program, call) == answer


@pytest.mark.parametrize("name", MACHINES)
def test_it_is_a_program_that_the_kernel_takes(name: str) -> None:
    """Whole instructions, at most 4096 of them, and no jump beyond the end (BPF_MAXINSNS of bpf_common.h)."""
    program = seccomp.program(name) or b""
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    assert len(program) % 8 == 0
    assert 0 < len(code) <= 4096
    for at, (operation, if_true, if_false, _) in enumerate(code):
        if operation in (0x15, 0x35, 0x45):
            assert at + 1 + max(if_true, if_false) < len(code)
    assert code[-1][0] == 0x06


def test_no_filter_for_a_machine_that_it_is_not_written_for() -> None:
    assert seccomp.program("riscv64") is None


KEYCTL = {"x86_64": 250, "aarch64": 219}.get(platform.machine(), 0)
KEYCTL_NO_SUCH_OPERATION = 9999


def errors_of_the_real_calls(protected: bool) -> dict[str, int]:
    """The errors of a keyring call and of two ioctls, in a child, under the filter or without it."""

    def work() -> dict[str, int]:
        libc = ctypes.CDLL(None, use_errno=True)
        if protected:
            namespaces.give_up_privileges(seccomp.program(platform.machine()))
        libc.syscall(KEYCTL, KEYCTL_NO_SUCH_OPERATION, 0, 0, 0, 0)
        found = {"keyctl": ctypes.get_errno()}
        read_end, _ = os.pipe()
        for name, request in (("TIOCSTI", TIOCSTI), ("TCGETS", TCGETS)):
            found[name] = error_of(functools.partial(fcntl.ioctl, read_end, request, b"\0" * 64))
        return found

    return dict(procs.fork(None, work).result())


def error_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.skipif(not KEYCTL, reason="there is no filter for this machine")
def test_for_real() -> None:
    """A pipe is no terminal, so that without the filter the kernel's own answer is another one."""
    outside, inside = errors_of_the_real_calls(False), errors_of_the_real_calls(True)
    assert outside["TIOCSTI"] == outside["TCGETS"] == inside["TCGETS"] == errno.ENOTTY
    assert inside["TIOCSTI"] == errno.EPERM
    assert inside["keyctl"] == errno.EPERM
    if outside["keyctl"] == errno.EPERM:
        pytest.skip("keyctl is refused here already without the filter")
    assert outside["keyctl"] == errno.EOPNOTSUPP


HERE = MACHINES.get(platform.machine())
AT_FDCWD = -100
needs_filter = pytest.mark.skipif(HERE is None, reason="there is no filter for this machine")


def raw(number: int, *words: int | bytes) -> None:
    """A system call past what the C library makes of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_long(word) if isinstance(word, int) else ctypes.c_char_p(word) for word in words]
    found = libc.syscall(ctypes.c_long(number), *values)
    if found == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # Of those tried here, only what opens something gives more than 0.
    if found > 0:
        os.close(found)


def opened(path: Path, flags: int, mode: int) -> None:
    os.close(os.open(path, flags, mode))


def file_calls(folder: Path) -> dict[str, tuple[Callable[[], object], bool]]:
    """What makes or changes a file, and whether it would be setuid or setgid by it."""
    assert HERE is not None
    old, held = folder / "old", os.open(folder / "old", os.O_RDWR)
    calls: dict[str, tuple[Callable[[], object], bool]] = {}
    for mode in (0o755, 0o1755, 0o4755, 0o2755, 0o6755):
        marked, word = bool(mode & 0o6000), f"{mode:o}"
        new = functools.partial(Path, f"{folder}/{word}")
        calls |= {
            f"chmod-{word}": (functools.partial(os.chmod, old, mode), marked),
            f"fchmod-{word}": (functools.partial(os.fchmod, held, mode), marked),
            f"fchmodat-{word}": (functools.partial(raw, HERE.modes["fchmodat"][0], AT_FDCWD, bytes(old), mode), marked),
            f"openat-{word}": (
                functools.partial(opened, new().with_suffix(".a"), os.O_WRONLY | os.O_CREAT, mode),
                marked,
            ),
            f"tmpfile-{word}": (functools.partial(opened, folder, os.O_WRONLY | os.O_TMPFILE, mode), marked),
            f"mknod-{word}": (functools.partial(os.mknod, new().with_suffix(".b"), stat.S_IFREG | mode), marked),
            f"no-creation-{word}": (functools.partial(opened, old, os.O_RDONLY, mode), False),
        }
        if "creat" in HERE.modes:
            path = bytes(new().with_suffix(".c"))
            calls[f"creat-{word}"] = functools.partial(raw, HERE.modes["creat"][0], path, mode), marked
            path, flags = bytes(new().with_suffix(".d")), os.O_WRONLY | os.O_CREAT
            calls[f"open-{word}"] = functools.partial(raw, HERE.opens["open"][0], path, flags, mode), marked
            calls[f"chmod-raw-{word}"] = functools.partial(raw, HERE.modes["chmod"][0], bytes(old), mode), marked
    garbage = functools.partial(raw, HERE.opens["openat"][0], AT_FDCWD, bytes(old), os.O_RDONLY, 0xFFFF)
    return calls | {"no-creation-garbage": (garbage, False)}


@needs_filter
@pytest.mark.parametrize("protected", [True, False], ids=["protected", "open"])
def test_no_setuid_file_is_made_for_real(tmp_path: Path, protected: bool) -> None:
    """And without the filter the kernel makes each of them, and so none fails here for another reason."""
    (tmp_path / "old").touch()

    def work() -> dict[str, list[int]]:
        if protected:
            namespaces.give_up_privileges(seccomp.program(platform.machine()))
        expected = errno.EPERM if protected else 0
        return {name: [error_of(call), expected * marked] for name, (call, marked) in file_calls(tmp_path).items()}

    found = procs.fork(None, work).result()
    assert {name: error for name, (error, _) in found.items()} == {name: error for name, (_, error) in found.items()}
    marked = {path.name for path in tmp_path.iterdir() if path.stat().st_mode & 0o6000}
    assert bool(marked) is not protected


@needs_filter
def test_administration_is_refused_for_real() -> None:
    """Called so that without the filter each fails by its arguments."""
    assert HERE is not None
    machine = HERE

    def errors(protected: bool) -> dict[str, int]:
        def work() -> dict[str, int]:
            if protected:
                namespaces.give_up_privileges(seccomp.program(platform.machine()))
            calls = {
                "perf_event_open": (0, 0, -1, -1, -1),
                "bpf": (9999, 0, 0),
                "userfaultfd": (0xFFFF,),
                "open_by_handle_at": (-1, 0, 0),
                "openat2": (AT_FDCWD, 0, 0, 0),
            }
            numbers = machine.administration | {"openat2": OPENAT2}
            return {name: error_of(functools.partial(raw, numbers[name], *words)) for name, words in calls.items()}

        return dict(procs.fork(None, work).result())

    inside = errors(True)
    assert inside.pop("openat2") == errno.ENOSYS
    assert set(inside.values()) == {errno.EPERM}
    assert errors(False)["openat2"] == errno.EINVAL
