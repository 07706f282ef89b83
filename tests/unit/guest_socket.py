"""A socket that answers as it is told to, for the clients of what a virtual machine says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Answers = Callable[[socket.socket], None]


@contextlib.contextmanager
def serving(path: Path, *answers: Answers) -> Iterator[None]:
    """Each connection is answered by the next of the functions, and closed when it returns."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        for answer in answers:
            with contextlib.suppress(OSError):
                connection, _address = listener.accept()
                with connection, contextlib.suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        listener.close()


def saying(*pieces: bytes) -> Answers:
    """Say this, whatever is asked, and wait until the other end closes."""

    def answer(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
        while connection.recv(65536):
            pass

    return answer
