"""A process of the host that can be harmed, and tells whether it was: for each line on stdin, its state as JSON.

    python3 victim.py TEXT KEY NAME

TEXT stands in its memory, in a System V segment under KEY, and in a POSIX one called NAME.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)
_IPC_CREAT, _IPC_RMID, _SIZE = 0o1000, 0, 4096


def main(text: str, key: str, name: str) -> None:
    """Stand there until stdin ends."""
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    # Where Yama lets only a parent trace, anybody of this account may trace this one: the strictest test of the rest.
    libc.prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
    signals: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: signals.append(number))
    memory = ctypes.create_string_buffer(text.encode(), 256)
    segment = libc.shmget(int(key), _SIZE, _IPC_CREAT | 0o600)
    address = libc.shmat(segment, None, 0)
    ctypes.memmove(address, text.encode(), len(text))
    posix = f"/dev/shm/{name}"
    with open(posix, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        for _ in sys.stdin:
            shared = ctypes.string_at(address, 128).rstrip(b"\0").decode("latin-1")
            state = {"memory": memory.value.decode("latin-1"), "signals": len(signals), "shared": shared}
            place = {"pid": os.getpid(), "address": ctypes.addressof(memory), "segment": segment}
            print(json.dumps(state | place), flush=True)
            memory.value = text.encode()
            signals.clear()
            ctypes.memmove(address, text.encode().ljust(128, b"\0"), 128)
    finally:
        libc.shmctl(segment, _IPC_RMID, None)
        os.unlink(posix)


if __name__ == "__main__":
    main(*sys.argv[1:])
