# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a sandbox's screen shows, looked at again and again: a mark that says whether it changed, and pictures of it.

For a process of one thread. Where a framebuffer's file is cut off between a look at its size and a look at its pixels,
the kernel ends the process (SIGBUS): whoever runs it starts another one.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import xxhash
from PIL import Image

from claude_sandbox import files, screen
from claude_sandbox.errors import SandboxError

Kind = Literal["jpeg", "webp", "png"]

# JPEG takes a tenth of the time that WebP takes at its quickest, and is a quarter larger. It goes without subsampling,
# for that blurs coloured text.
_OPTIONS: Mapping[Kind, Mapping[str, Any]] = {
    "jpeg": {"quality": 85, "subsampling": 0},
    "webp": {"quality": 80, "method": 0},
    "png": {"compress_level": 1},
}
# What Pillow raises for what is no picture, or a damaged one.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class Encoded(NamedTuple):
    """A picture as a file, and the mark of the very pixels that it was made from."""

    mark: str
    content: bytes


class Framebuffer:
    """The display of a sandbox on this host, by the file that its X server keeps its pixels in.

    The file may come, go and be replaced by another one: each look is at what is there then.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._mapped: _Mapped | None = None

    def mark(self) -> str:
        """A text that changes when what is shown does. Raises SandboxError where nothing is shown.

        Costs one look at all pixels where they are, and no copy.
        """
        mapped = self._current()
        with mapped.pixels() as pixels:
            return mapped.mark(pixels)

    def encoded(self, width: int | None, kind: Kind) -> Encoded:
        """What is shown, as a picture of that many pixels width, or in full (None). It is never made larger.

        Raises SandboxError where nothing is shown.
        """
        mapped = self._current()
        # The server goes on drawing meanwhile: mark and picture are both made from this copy.
        with mapped.pixels() as pixels:
            copy = bytes(pixels)
        return Encoded(mapped.mark(copy), _file(mapped.picture(copy, width), kind))

    def _current(self) -> _Mapped:
        """The mapping of the file that is there now, and is as long as what is mapped of it."""
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except OSError:
            self._mapped = None
            raise screen.gone() from None
        if self._mapped is None or not self._mapped.still_is(status):
            self._mapped = None
            self._mapped = _Mapped(self._path)
        return self._mapped


class _Mapped:
    """A framebuffer's file in memory, shared with the server that draws in it."""

    def __init__(self, path: str) -> None:
        """Raises SandboxError where it is no such file."""
        file = files.open_regular(path)
        if file is None:
            raise screen.gone()
        with file:
            status = os.fstat(file.fileno())
            self._layout = screen.layout(file.read(screen.HEADER), status.st_size)
            self._identity = (status.st_dev, status.st_ino)
            try:
                # All pages at once: every look is at all of them.
                flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
                self._memory = mmap.mmap(file.fileno(), self._layout.end, flags, mmap.PROT_READ)
            except (OSError, ValueError) as error:
                raise SandboxError(f"The display's framebuffer cannot be read: {error}.", "Try again.") from error

    def still_is(self, status: os.stat_result) -> bool:
        """Whether this is the file that has this status, and no part of it was cut off."""
        return self._identity == (status.st_dev, status.st_ino) and status.st_size >= self._layout.end

    def pixels(self) -> memoryview:
        """All pixels, where they are; to be released before the mapping can go."""
        with memoryview(self._memory) as whole:
            return whole[self._layout.start :]

    def mark(self, pixels: memoryview | bytes) -> str:
        """The mark of these pixels."""
        return _mark(self._layout.width, self._layout.height, pixels)

    def picture(self, pixels: bytes, width: int | None) -> Image.Image:
        """These pixels as a picture of that width. The large one is not copied where it is shrunk."""
        size = (self._layout.width, self._layout.height)
        if width is None or width >= size[0]:
            return Image.frombuffer("RGB", size, pixels, "raw", "BGRX", 0, 1)
        # Blue and red change places only in the small picture.
        small = _shrunk(Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1), width)
        return Image.frombuffer("RGB", small.size, small.tobytes(), "raw", "BGRX", 0, 1)


class Shot:
    """The screen of a sandbox that has to be asked for it: pictures are taken, but not too often.

    take: gives the screen as PNG. It is not trusted, for a guest has drawn it, and may have more in its hand.
    min_interval: seconds from the end of one attempt to the next.
    """

    def __init__(self, take: Callable[[], bytes], min_interval: float = 5.0) -> None:
        self._take = take
        self._min_interval = min_interval
        self._next_at = -math.inf
        self._last: Encoded | SandboxError = Encoded("", b"")

    def mark(self) -> str:
        """A text that changes when what is shown does. Raises SandboxError where no picture could be had."""
        return self._current().mark

    def encoded(self, width: int | None, kind: Kind) -> Encoded:
        """What is shown, as a picture of that many pixels width, or in full (None). It is never made larger.

        Raises SandboxError where no picture could be had.
        """
        mark, content = self._current()
        return Encoded(mark, _file(_shrunk(_decoded(content), width), kind))

    def _current(self) -> Encoded:
        """The last picture as it was taken; another one where that was too long ago."""
        if time.monotonic() >= self._next_at:
            self._last = self._attempt()
            self._next_at = time.monotonic() + self._min_interval
        if isinstance(self._last, SandboxError):
            # Failing may take long, too: it is told of again, and not tried.
            raise SandboxError(self._last.what, self._last.hint)
        return self._last

    def _attempt(self) -> Encoded | SandboxError:
        try:
            content = self._take()
            width, height = screen.dimensions(content)
        except SandboxError as error:
            return error
        return Encoded(_mark(width, height, content), content)


def _mark(width: int, height: int, content: memoryview | bytes) -> str:
    return f"{width}x{height}-{xxhash.xxh3_128_hexdigest(content)}"


def _decoded(content: bytes) -> Image.Image:
    size = screen.dimensions(content)
    try:
        picture = Image.open(io.BytesIO(content), formats=["PNG"])
        # A second header may tell of more than the first one did.
        if picture.size == size:
            return picture.convert("RGB")
    except _DAMAGED as error:
        raise SandboxError("The picture of the screen is damaged.", "Try again, or restart the sandbox.") from error
    raise SandboxError("The picture of the screen is of two sizes.", "Try again, or restart the sandbox.")


def _shrunk(picture: Image.Image, width: int | None) -> Image.Image:
    """At this width, where it is wider: by averages of whole numbers of pixels, which is quick, and then the rest."""
    if width is None or width >= picture.width:
        return picture
    size = (max(1, width), max(1, round(picture.height * width / picture.width)))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)


def _file(picture: Image.Image, kind: Kind) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, kind, **_OPTIONS[kind])
        return file.getvalue()
