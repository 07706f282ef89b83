"""As much of the X11 protocol as it takes to be let in, and to misuse the server."""

from __future__ import annotations

import struct

from .network import open_stream

_CREATE_PIXMAP, _CREATE_GC, _PUT_IMAGE, _GET_IMAGE, _QUERY_EXTENSION, _GET_INPUT_FOCUS = 53, 55, 72, 73, 98, 43
_SHM_ATTACH, _SHM_PUT_IMAGE, _SHM_GET_IMAGE = 1, 3, 4
_Z_PIXMAP, _DEPTH, _WIDTH = 2, 24, 32
_NAME = b"MIT-MAGIC-COOKIE-1"


class RefusedError(Exception):
    """The server did not let us in, or did not do as we asked."""


class Client:
    """A connection to an X server."""

    def __init__(self, path: str, cookie: bytes) -> None:
        self._socket = open_stream(path)
        padding = b"\0" * (-len(_NAME) % 4)
        hello = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(_NAME) if cookie else 0, len(cookie))
        self._socket.sendall(hello + ((_NAME + padding + cookie) if cookie else b""))
        head = self._read(8)
        body = self._read(struct.unpack("<H", head[6:8])[0] * 4)
        if head[0] != 1:
            raise RefusedError(body.decode("latin-1"))
        (self._free,) = struct.unpack("<I", body[4:8])
        (vendor,) = struct.unpack("<H", body[16:18])
        screen = 32 + vendor + (-vendor % 4) + 8 * body[21]
        (self._root,) = struct.unpack("<I", body[screen : screen + 4])

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise RefusedError("the server hung up")
            data += piece
        return data

    def _id(self) -> int:
        self._free += 1
        return int(self._free)

    def _send(self, code: int, detail: int, body: bytes) -> None:
        body += b"\0" * (-len(body) % 4)
        self._socket.sendall(struct.pack("<BBH", code, detail, 1 + len(body) // 4) + body)

    def _ask(self, code: int, detail: int, body: bytes) -> bytes:
        self._send(code, detail, body)
        while True:
            answer = self._read(32)
            if answer[0] == 0:
                raise RefusedError(f"X error {answer[1]}")
            if answer[0] == 1:
                return answer + self._read(struct.unpack("<I", answer[4:8])[0] * 4)

    def extension(self, name: bytes) -> int | None:
        """The code of an extension, or None."""
        answer = self._ask(_QUERY_EXTENSION, 0, struct.pack("<Hxx", len(name)) + name)
        return answer[9] if answer[8] else None

    def shared_memory(self, segment: int, text: bytes) -> bytes:
        """What stands in a System V segment of the server's namespace; `text` is written to it then."""
        code = self.extension(b"MIT-SHM")
        if code is None:
            raise RefusedError("the server has no MIT-SHM")
        shared, pixmap, context = self._id(), self._id(), self._id()
        self._send(code, _SHM_ATTACH, struct.pack("<IIBxxx", shared, segment, 0))
        self._send(_CREATE_PIXMAP, _DEPTH, struct.pack("<IIHH", pixmap, self._root, _WIDTH, 1))
        self._send(_CREATE_GC, 0, struct.pack("<III", context, pixmap, 0))
        put = struct.pack("<IIHHHHHHhhBBBx", pixmap, context, _WIDTH, 1, 0, 0, _WIDTH, 1, 0, 0, _DEPTH, _Z_PIXMAP, 0)
        self._send(code, _SHM_PUT_IMAGE, put + struct.pack("<II", shared, 0))
        area = struct.pack("<IhhHHI", pixmap, 0, 0, _WIDTH, 1, 0xFFFFFFFF)
        found = self._ask(_GET_IMAGE, _Z_PIXMAP, area)[32:]
        image = text.ljust(_WIDTH * 4, b"!")
        head = struct.pack("<IIHHhhBBxx", pixmap, context, _WIDTH, 1, 0, 0, 0, _DEPTH)
        self._send(_PUT_IMAGE, _Z_PIXMAP, head + image)
        self._ask(code, _SHM_GET_IMAGE, area + struct.pack("<BxxxII", _Z_PIXMAP, shared, 0))
        return found
