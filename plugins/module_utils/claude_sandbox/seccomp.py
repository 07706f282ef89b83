# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filter of system calls that every sandbox on a shared kernel runs under, as a BPF program.

It closes what namespaces leave open: the kernel's keyrings, which are not namespaced as a whole; the ioctls that
type into a terminal; sockets of families that no namespace parts (vsock leads to the hypervisor); io_uring, by which
a program calls the kernel past this filter; setuid and setgid files, which would give whoever runs one outside the
account's rights; and calls that only an administrator needs, which are so much less of the kernel to attack. Numbers
are from the kernel's syscall tables; the layout from seccomp(2).
"""

from __future__ import annotations

import dataclasses
import errno
import struct
from collections.abc import Mapping

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32_BIT = 0x40000000
_TERMINAL_IOCTLS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_SOCKET_FAMILIES = (0, 1, 2, 10, 16)  # AF_UNSPEC, UNIX, INET, INET6, NETLINK
_IO_URING = (425, 426, 427)  # setup, enter, register: the same on every architecture

_SET_ID = 0o6000  # the mode's bits setuid and setgid
_MAKES_FILE = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE
_LSM_SET_SELF_ATTR = 460
_OPENAT2 = 437  # takes its arguments by a pointer, which no filter can follow


@dataclasses.dataclass(frozen=True)
class _Table:
    """The calls of one architecture, by their numbers there.

    administration: what only an administrator needs. modes: call → which of its arguments is a mode. opens: call →
    which of its arguments are the flags, and the mode where the flags make a file.
    """

    audit: int
    ioctl: int
    socket: int
    keyring: tuple[int, ...]
    administration: tuple[int, ...]
    modes: Mapping[int, int]
    opens: Mapping[int, tuple[int, int]]


# bpf, perf_event_open, open_by_handle_at, quotactl, swapon, swapoff, kexec_load, kexec_file_load, init_module,
# finit_module, delete_module, userfaultfd, acct, reboot, lookup_dcookie, syslog; iopl, ioperm where they are.
_OF_X86_64 = (321, 298, 304, 179, 167, 168, 246, 320, 175, 313, 176, 323, 163, 169, 212, 103, 172, 173)
_OF_AARCH64 = (280, 241, 265, 60, 224, 225, 104, 294, 105, 273, 106, 282, 89, 142, 18, 116)
_OF_ALL = (438, 443, 447)  # pidfd_getfd, quotactl_fd, memfd_secret
_FCHMODAT2 = 452

_TABLES = {
    # The modes of chmod, fchmod, creat, mknod, fchmodat, mknodat, fchmodat2; the flags and modes of open and openat.
    "x86_64": _Table(
        audit=0xC000003E,
        ioctl=16,
        socket=41,
        keyring=(248, 249, 250),
        administration=_OF_X86_64 + _OF_ALL,
        modes={90: 1, 91: 1, 85: 1, 133: 1, 268: 2, 259: 2, _FCHMODAT2: 2},
        opens={2: (1, 2), 257: (2, 3)},
    ),
    # The modes of fchmod, fchmodat, mknodat, fchmodat2; the flags and the mode of openat.
    "aarch64": _Table(
        audit=0xC00000B7,
        ioctl=29,
        socket=198,
        keyring=(217, 218, 219),
        administration=_OF_AARCH64 + _OF_ALL,
        modes={52: 1, 53: 2, 33: 2, _FCHMODAT2: 2},
        opens={56: (2, 3)},
    ),
}

_Instruction = tuple[int, int, int, int]


def program(machine: str) -> bytes | None:
    """The filter for a machine as uname(2) names it; None for one that it is not written for.

    Foreign system call tables (i386 and x32 on x86_64) are refused whole, for they would go round it.
    """
    if machine not in _TABLES:
        return None
    table = _TABLES[machine]
    code: list[_Instruction] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, table.audit), _refuse(errno.ENOSYS)]
    code += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    for number in (*table.keyring, *table.administration):
        code += [(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    for number in (*_IO_URING, _OPENAT2, _LSM_SET_SELF_ATTR):
        code += [(_EQUAL, 0, 1, number), _refuse(errno.ENOSYS)]
    for number, argument in table.modes.items():
        code += _only(number, [*_no_bits(argument, _SET_ID), (_RETURN, 0, 0, _ALLOW)])
    for number, (flags, mode) in table.opens.items():
        makes = [(_LOAD, 0, 0, _argument(flags)), (_ANY_BIT, 0, 3, _MAKES_FILE)]
        code += _only(number, [*makes, *_no_bits(mode, _SET_ID), (_RETURN, 0, 0, _ALLOW)])
    families = [(_EQUAL, len(_SOCKET_FAMILIES) - at, 0, family) for at, family in enumerate(_SOCKET_FAMILIES)]
    refused = [_refuse(errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    code += _only(table.socket, [(_LOAD, 0, 0, _argument(0)), *families, *refused])
    code += [(_EQUAL, 1, 0, table.ioctl), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _argument(1))]
    for request in _TERMINAL_IOCTLS:
        code += [(_EQUAL, 0, 1, request), _refuse(errno.EPERM)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _only(number: int, instructions: list[_Instruction]) -> list[_Instruction]:
    """Instructions for one call, which every other one passes by."""
    return [(_EQUAL, 0, len(instructions), number), *instructions]


def _no_bits(argument: int, bits: int) -> list[_Instruction]:
    """Refuse the call where an argument has any of these bits."""
    return [(_LOAD, 0, 0, _argument(argument)), (_ANY_BIT, 0, 1, bits), _refuse(errno.EPERM)]


def _argument(number: int) -> int:
    """Where the lower half of an argument is in struct seccomp_data, little-endian."""
    return _ARGUMENTS + 8 * number


def _refuse(number: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)
