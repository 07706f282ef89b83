"""The filter of system calls: interpreted here as the kernel would, and tried for real."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import functools
import os
import platform
import struct
from collections.abc import Callable

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
        elif operation == 0x06:  # BPF_RET | BPF_K
            return int(value)
        else:
            raise AssertionError(f"an unknown operation: {operation:#x}")


@dataclasses.dataclass(frozen=True)
class Machine:
    """The numbers of asm/unistd.h that matter."""

    arch: int
    ioctl: int
    socket: int
    keyring: dict[str, int]
    harmless: dict[str, int]


MACHINES = {
    "x86_64": Machine(
        X86_64,
        16,
        41,
        {"add_key": 248, "request_key": 249, "keyctl": 250},
        {"read": 0, "fcntl": 72, "sysinfo": 99, "waitid": 247, "ioprio_set": 251, "clone3": 435, "last": 0x3FFFFFFF},
    ),
    "aarch64": Machine(
        AARCH64,
        29,
        198,
        {"add_key": 217, "request_key": 218, "keyctl": 219},
        {"io_setup": 0, "inotify_rm_watch": 28, "brk": 214, "clone": 220, "clone3": 435, "last": 0x3FFFFFFF},
    ),
}
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
        if operation in (0x15, 0x35):
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
