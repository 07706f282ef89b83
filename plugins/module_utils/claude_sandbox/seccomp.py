# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filter of system calls that every sandbox on a shared kernel runs under, as a BPF program.

It closes what namespaces leave open: the kernel's keyrings, which are not namespaced as a whole; the ioctls that
type into a terminal; sockets of families that no namespace parts (vsock leads to the hypervisor); io_uring, by which
a program calls the kernel past this filter. Numbers are from the kernel's syscall tables; the layout from seccomp(2).
"""

from __future__ import annotations

import errno
import struct

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in struct seccomp_data, little-endian
_X32_BIT = 0x40000000
_TERMINAL_IOCTLS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_SOCKET_FAMILIES = (0, 1, 2, 10, 16)  # AF_UNSPEC, UNIX, INET, INET6, NETLINK
_IO_URING = (425, 426, 427)  # setup, enter, register: the same on every architecture

# machine → (audit architecture, ioctl, socket, the keyring calls add_key, request_key and keyctl)
_TABLES = {
    "x86_64": (0xC000003E, 16, 41, (248, 249, 250)),
    "aarch64": (0xC00000B7, 29, 198, (217, 218, 219)),
}

_Instruction = tuple[int, int, int, int]


def program(machine: str) -> bytes | None:
    """The filter for a machine as uname(2) names it; None for one that it is not written for.

    Foreign system call tables (i386 and x32 on x86_64) are refused whole, for they would go round it.
    """
    if machine not in _TABLES:
        return None
    architecture, ioctl, socket, keyring = _TABLES[machine]
    code: list[_Instruction] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, architecture), _refuse(errno.ENOSYS)]
    code += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    for number in keyring:
        code += [(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    for number in _IO_URING:
        code += [(_EQUAL, 0, 1, number), _refuse(errno.ENOSYS)]
    families = [(_EQUAL, len(_SOCKET_FAMILIES) - at, 0, family) for at, family in enumerate(_SOCKET_FAMILIES)]
    code += [(_EQUAL, 0, len(families) + 3, socket), (_LOAD, 0, 0, _FIRST_ARGUMENT), *families]
    code += [_refuse(errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    code += [(_EQUAL, 1, 0, ioctl), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _SECOND_ARGUMENT)]
    for request in _TERMINAL_IOCTLS:
        code += [(_EQUAL, 0, 1, request), _refuse(errno.EPERM)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _refuse(number: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)
