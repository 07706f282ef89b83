# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a sandbox's X display shows: its framebuffer file, as a PNG picture."""

from __future__ import annotations

import struct
import zlib

from . import files
from .errors import SandboxError

_WORD = 4  # bytes of a field in the header, which is big-endian (X11/XWDFile.h)
_COLOUR = 12  # bytes of an entry of the colour map
_HEADER_SIZE, _WIDTH, _HEIGHT, _BITS, _STRIDE, _COLOURS = 0, 4, 5, 11, 12, 19
_FIELDS = 25
_LIMIT = 160 << 20  # bytes; 7680x4320 has 127 MiB


def png(framebuffer: str) -> bytes:
    """The picture in an XWD file of 32 bits a pixel, as Xvfb keeps it. Raises SandboxError where it is no such file."""
    file = files.open_regular(framebuffer)
    if file is None:
        raise SandboxError("The display shows nothing: its framebuffer is gone.", "Start the sandbox again.")
    with file:
        data = file.read(_LIMIT)
    if len(data) < _FIELDS * _WORD:
        raise SandboxError("The display's framebuffer is no picture.", "Start the sandbox again.")
    header = struct.unpack(f">{_FIELDS}I", data[: _FIELDS * _WORD])
    width, height, stride = header[_WIDTH], header[_HEIGHT], header[_STRIDE]
    start = header[_HEADER_SIZE] + header[_COLOURS] * _COLOUR
    size = stride * height
    if header[_BITS] != 32 or stride != width * 4 or not size or start + size > len(data):
        raise SandboxError("The display's framebuffer is no picture that can be read.", "Start the sandbox again.")
    return _encoded(data[start : start + size], width, height)


def _encoded(pixels: bytes, width: int, height: int) -> bytes:
    """Pixels of blue, green, red and nothing, as a PNG."""
    colours = bytearray(width * height * 3)
    for number, offset in enumerate((2, 1, 0)):
        colours[number::3] = pixels[offset::4]
    row = width * 3
    # Each row begins with the number of its filter: none.
    lines = b"".join(b"\0" + colours[at : at + row] for at in range(0, len(colours), row))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
