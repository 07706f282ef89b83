# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether this machine's KVM runs guests: found out by running one, for the device's presence proves nothing."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import struct

from . import procs
from .errors import SandboxError

DEVICE = "/dev/kvm"
# Requests of linux/kvm.h.
_CREATE_VM, _CREATE_VCPU, _RUN_SIZE, _RUN = 0xAE01, 0xAE41, 0xAE04, 0xAE80
_SET_MEMORY, _SET_TSS = 0x4020AE46, 0xAE47
_GET_SREGS, _SET_SREGS, _SET_REGS = 0x8138AE83, 0x4138AE84, 0x4090AE82
_SREGS_SIZE, _REGS_SIZE = 312, 144
_EXIT_HALTED = 5
_TSS_ADDRESS = 0xFFFBD000 - (1 << 32)  # as a C int
_SECONDS = 0.25  # a processor takes a thousandth of it; one that is emulated, a second
# mov ecx, 1000000; l: dec ecx; jnz l; hlt
_PROGRAM = b"\xb9" + (1_000_000).to_bytes(4, "little") + b"\xff\xc9\x75\xfc\xf4"
_CODE, _TABLES, _MEMORY = 0x1000, (0x2000, 0x3000, 0x4000), 0x8000
_PROTECTED_AND_PAGED, _PHYSICAL_EXTENSION, _LONG_MODE, _HUGE_PAGE = 0x80000011, 0x20, 0x500, 0x83


def trouble() -> str | None:
    """Why KVM cannot run a guest for this account, in a few words; None where it has just run one.

    Needs a fork: a guest that hangs takes only a child with it.
    """
    if os.uname().machine != "x86_64":
        return "it is tried on x86_64 alone"
    if not os.path.exists(DEVICE):
        return f"there is no {DEVICE}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} is closed to this account"
    try:
        return None if procs.fork(None, _runs_a_guest).result() else "a guest on it stops in its first instructions"
    except SandboxError:
        return "a guest on it does not run, or runs a thousand times too slowly"


def _runs_a_guest() -> bool:
    """Run a million turns of a loop in 64-bit mode with paging; the alarm ends this process where they take long."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        machine = fcntl.ioctl(device, _CREATE_VM, 0)
        memory = _memory(machine)
        processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
        state = mmap.mmap(processor, fcntl.ioctl(device, _RUN_SIZE, 0))
        _prepare(processor)
        fcntl.ioctl(processor, _RUN, 0)
    except OSError:
        return False
    return len(memory) == _MEMORY and struct.unpack_from("=I", state, 8)[0] == _EXIT_HALTED


def _memory(machine: int) -> mmap.mmap:
    """The guest's memory: the program, and page tables that map the first two MiB to themselves."""
    memory = mmap.mmap(-1, _MEMORY)
    memory[_CODE : _CODE + len(_PROGRAM)] = _PROGRAM
    for table, entry in zip(_TABLES, (_TABLES[1] | 3, _TABLES[2] | 3, _HUGE_PAGE), strict=True):
        memory[table : table + 8] = struct.pack("=Q", entry)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, _SET_MEMORY, struct.pack("=IIQQQ", 0, 0, 0, _MEMORY, address))
    fcntl.ioctl(machine, _SET_TSS, _TSS_ADDRESS)
    return memory


def _prepare(processor: int) -> None:
    """Put the processor into 64-bit mode, at the program's beginning."""
    special = bytearray(_SREGS_SIZE)
    fcntl.ioctl(processor, _GET_SREGS, special)
    special[:24] = _segment(selector=8, kind=11, wide=0, long=1)
    for at in range(24, 144, 24):
        special[at : at + 24] = _segment(selector=16, kind=3, wide=1, long=0)
    for offset, value in (
        (224, _PROTECTED_AND_PAGED),
        (240, _TABLES[0]),
        (248, _PHYSICAL_EXTENSION),
        (264, _LONG_MODE),
    ):
        struct.pack_into("=Q", special, offset, value)
    fcntl.ioctl(processor, _SET_SREGS, bytes(special))
    general = bytearray(_REGS_SIZE)
    struct.pack_into("=QQ", general, 128, _CODE, 2)
    fcntl.ioctl(processor, _SET_REGS, bytes(general))


def _segment(selector: int, kind: int, wide: int, long: int) -> bytes:
    """A struct kvm_segment from 0 to 4 GiB."""
    return struct.pack("=QIH8Bxx", 0, 0xFFFFFFFF, selector, kind, 1, 0, wide, 1, long, 1, 0)
