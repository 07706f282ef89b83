# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a sandbox's X display shows: its framebuffer file (X11/XWDFile.h), and pictures of it as PNG."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterator

from . import files
from .errors import SandboxError

# The largest screen that a sandbox may have, in pixels. More than that is told of by nobody honest.
LARGEST = (7680, 4320)

_FIELDS = struct.Struct(">25I")
HEADER = _FIELDS.size  # bytes of a framebuffer's file that tell its layout
_HEADER_SIZE, _FORMAT, _WIDTH, _HEIGHT, _ORDER, _BITS, _STRIDE, _COLOURS = 0, 2, 4, 5, 7, 11, 12, 19
_WHOLE_PIXELS = 2  # of the formats, ZPixmap
_LEAST_FIRST = 0  # of the orders of a pixel's bytes: blue, green, red, nothing
_COLOUR = 12  # bytes of an entry of the colour map
_LIMIT = 160 << 20  # bytes of a file that are looked at; the largest screen has 127 MiB

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Signature, length and name of the first chunk, then width and height.
_PNG_START = struct.Struct(">8sI4sII")
_TRUE_COLOUR = 2
_AS_IT_IS, _AS_ABOVE = (
    b"\0",
    b"\2",
)  # what the first byte of a row says of it: no filter, or the difference to the row above
_FASTEST = 1


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the pixels are in a framebuffer's file.

    width, height: in pixels of four bytes, which are blue, green, red and nothing.
    stride: bytes from a row to the next; there is nothing between them.
    start: bytes before the first row.
    """

    width: int
    height: int
    stride: int
    start: int

    @property
    def end(self) -> int:
        """Bytes up to the end of the last row."""
        return self.start + self.stride * self.height


def layout(header: bytes, size: int) -> Layout:
    """What the first HEADER bytes of an XWD file of `size` bytes tell, as Xvfb writes it.

    Raises SandboxError where they tell of no such file, or of one that is larger.
    """
    if len(header) < HEADER:
        raise _no_picture()
    fields = _FIELDS.unpack_from(header)
    start = fields[_HEADER_SIZE] + fields[_COLOURS] * _COLOUR
    found = Layout(fields[_WIDTH], fields[_HEIGHT], fields[_STRIDE], start)
    kind = (fields[_FORMAT], fields[_ORDER], fields[_BITS])
    if kind != (_WHOLE_PIXELS, _LEAST_FIRST, 32) or found.stride != found.width * 4:
        raise _no_picture()
    if start < HEADER or not _is_possible(found.width, found.height) or found.end > min(size, _LIMIT):
        raise _no_picture()
    return found


def dimensions(picture: bytes) -> tuple[int, int]:
    """Width and height in pixels of a PNG. Raises SandboxError where it is none, or larger than any screen."""
    if len(picture) >= _PNG_START.size:
        signature, _length, name, width, height = _PNG_START.unpack_from(picture)
        if (signature, name) == (_SIGNATURE, b"IHDR") and _is_possible(width, height):
            return width, height
    raise SandboxError("What the display gave is no picture of a screen.", "Try again, or restart the sandbox.")


def png(framebuffer: str) -> bytes:
    """The picture in an XWD file of 32 bits a pixel, as Xvfb keeps it. Raises SandboxError where it is no such file."""
    file = files.open_regular(framebuffer)
    if file is None:
        raise gone()
    with file:
        data = file.read(_LIMIT)
    return _encoded(data, layout(data[:HEADER], len(data)))


def gone() -> SandboxError:
    """What is wrong where a framebuffer's file is not there."""
    return SandboxError("The display shows nothing: its framebuffer is gone.", "Start the sandbox again.")


def _no_picture() -> SandboxError:
    return SandboxError("The display's framebuffer is no picture that can be read.", "Start the sandbox again.")


def _is_possible(width: int, height: int) -> bool:
    return 0 < width <= LARGEST[0] and 0 < height <= LARGEST[1]


def _encoded(data: bytes, where: Layout) -> bytes:
    """A framebuffer's content as a PNG."""
    squeezer = zlib.compressobj(_FASTEST)
    lines = b"".join([squeezer.compress(line) for line in _lines(data, where)]) + squeezer.flush()
    header = struct.pack(">IIBBBBB", where.width, where.height, 8, _TRUE_COLOUR, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", lines), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def _lines(data: bytes, where: Layout) -> Iterator[bytes | bytearray]:
    """The rows, as a PNG has them. Much of a desktop is rows that are like the one above: they cost next to nothing."""
    line, same = bytearray(_AS_IT_IS + bytes(where.width * 3)), _AS_ABOVE + bytes(where.width * 3)
    above = b""
    for at in range(where.start, where.end, where.stride):
        row = data[at : at + where.stride]
        if row == above:
            yield same
            continue
        line[1::3], line[2::3], line[3::3] = row[2::4], row[1::4], row[0::4]
        yield line
        above = row


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
