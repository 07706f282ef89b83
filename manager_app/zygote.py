# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The process that forks for the manager: the engine forks and changes accounts, which a program of threads must not.

It has one thread and holds nothing, so that a fork of it is quick and starts clean. For each message on its control
socket, which is the name of a piece of work and one end of a stream, it forks a child that does that work and answers
through the stream. When the manager is gone it ends; work that has begun goes on to its end.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from PIL import Image

from . import acts, observer

_NAME_LIMIT = 64

Work = Callable[[socket.socket], None]
WORK: dict[str, Work] = {**acts.WORK, "observe": observer.serve, "attach": acts.attach}
# What Python loads at its first use, as Pillow does its formats: the account that a child becomes may not be able to.
_CODECS = ("ascii", "latin-1", "utf-8-sig", "idna")
# JSON may be in any of these, so what a sandbox writes may name them.
_CODECS_OF_JSON = ("utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-32-le")


def main(control: socket.socket) -> None:
    """Fork for whoever holds the other end, until that is closed."""
    for codec in _CODECS + _CODECS_OF_JSON:
        codecs.lookup(codec)
    Image.init()
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(control, _NAME_LIMIT, 1)
        if not message:
            return
        for descriptor in descriptors:
            _fork(control, message.decode("ascii", "replace"), descriptor)
            os.close(descriptor)


def _reap(_number: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork(control: socket.socket, name: str, descriptor: int) -> None:
    # A child that ended between its birth and its own settings would call our handler: it does no harm there.
    if os.fork():
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        with socket.socket(fileno=descriptor) as stream:
            WORK[name](stream)
    except (BrokenPipeError, ConnectionResetError):
        pass  # whoever asked does not wait for the answer any more
    except BaseException:  # noqa: BLE001 - nothing may climb into the loop of the parent
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as end:
        main(end)
