"""Marks and pictures of screens: of files as an X server keeps them, of a real X server, and of what a guest gives."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from claude_sandbox import display
from claude_sandbox.errors import SandboxError
from claude_sandbox.host import Host
from manager_app import frames

SIZE = (640, 360)
RED, BLUE, GREEN = (200, 20, 30), (10, 60, 220), (20, 190, 40)
KINDS = get_args(frames.Kind)
Colour = tuple[int, int, int]


def halves(left: Colour = RED, right: Colour = BLUE, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of two colours, one beside the other."""
    picture = Image.new("RGB", size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def xwd(picture: Image.Image) -> bytes:
    """The picture as an X server keeps it."""
    fields = {0: 100, 1: 7, 2: 2, 3: 24, 4: picture.width, 5: picture.height, 11: 32, 12: picture.width * 4}
    header = struct.pack(">25I", *(fields.get(number, 0) for number in range(25)))
    return header + picture.tobytes("raw", "BGRX")


def png(picture: Image.Image) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, "png")
        return file.getvalue()


def opened(encoded: frames.Encoded) -> Image.Image:
    return Image.open(io.BytesIO(encoded.content))


def assert_colour(picture: Image.Image, at: tuple[float, float], colour: Colour) -> None:
    """That a picture has this colour there (in parts of its size), or nearly so."""
    found = picture.convert("RGB").getpixel((int(at[0] * picture.width), int(at[1] * picture.height)))
    assert isinstance(found, tuple)
    assert max(abs(one - other) for one, other in zip(found, colour, strict=True)) <= 6, (found, colour)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "Xvfb_screen0"
    made.write_bytes(xwd(halves()))
    return made


def drawn(path: Path, picture: Image.Image) -> None:
    """Draw in the file as a server does, which keeps it mapped: it is neither cut off nor replaced."""
    with path.open("r+b") as file:
        file.write(xwd(picture))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "width, expected", [(None, SIZE), (160, (160, 90)), (100, (100, 56)), (9999, SIZE), (1, (1, 1))]
)
def test_a_picture(path: Path, kind: frames.Kind, width: int | None, expected: tuple[int, int]) -> None:
    picture = opened(frames.Framebuffer(str(path)).encoded(width, kind))
    assert picture.format == kind.upper()
    assert picture.size == expected
    if expected[0] > 1:
        assert_colour(picture, (0.2, 0.5), RED)
        assert_colour(picture, (0.8, 0.5), BLUE)


def test_a_screen_whose_size_is_no_multiple(path: Path) -> None:
    path.write_bytes(xwd(halves(size=(1367, 769))))
    picture = opened(frames.Framebuffer(str(path)).encoded(480, "png"))
    assert picture.size == (480, 270)
    assert_colour(picture, (0.01, 0.01), RED)
    assert_colour(picture, (0.99, 0.99), BLUE)


def test_a_mark_changes_with_the_pixels_alone(path: Path) -> None:
    source = frames.Framebuffer(str(path))
    first = source.mark()
    assert source.mark() == first
    drawn(path, halves())
    os.utime(path, (1, 1))
    assert source.mark() == first
    changed = halves()
    changed.putpixel((SIZE[0] - 1, SIZE[1] - 1), GREEN)
    drawn(path, changed)
    assert source.mark() != first
    drawn(path, halves())
    assert source.mark() == first
    assert frames.Framebuffer(str(path)).mark() == first


def test_the_same_pixels_on_a_screen_of_another_size_are_another_picture(path: Path) -> None:
    source = frames.Framebuffer(str(path))
    path.write_bytes(xwd(Image.new("RGB", (40, 30), RED)))
    wide = source.mark()
    replacement = path.with_name("new")
    replacement.write_bytes(xwd(Image.new("RGB", (30, 40), RED)))
    replacement.rename(path)
    assert source.mark() != wide


def test_a_picture_fits_its_mark(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server draws while the picture is made of what was there before."""
    source = frames.Framebuffer(str(path))
    before, shrink = source.mark(), frames._shrunk

    def interrupted(picture: Image.Image, width: int | None) -> Image.Image:
        drawn(path, halves(GREEN, GREEN))
        return shrink(picture, width)

    monkeypatch.setattr(frames, "_shrunk", interrupted)
    encoded = source.encoded(160, "png")
    assert encoded.mark == before
    assert_colour(opened(encoded), (0.2, 0.5), RED)
    assert source.mark() == source.encoded(160, "png").mark != before


def test_a_look_copies_nothing(path: Path) -> None:
    source = frames.Framebuffer(str(path))
    source.mark()
    tracemalloc.start()
    try:
        source.mark()
        assert tracemalloc.get_traced_memory()[1] < SIZE[0] * SIZE[1] * 4 / 20
    finally:
        tracemalloc.stop()


def test_a_file_that_another_one_takes_the_place_of(path: Path) -> None:
    """As when the sandbox is started again."""
    source = frames.Framebuffer(str(path))
    before = source.mark()
    path.unlink()
    for look in (source.mark, lambda: source.encoded(160, "jpeg")):
        with pytest.raises(SandboxError, match="framebuffer is gone") as caught:
            look()
        assert caught.value.hint
    path.write_bytes(xwd(halves(GREEN, RED, (320, 200))))
    after = source.encoded(None, "png")
    assert after.mark == source.mark() != before
    assert opened(after).size == (320, 200)
    assert_colour(opened(after), (0.2, 0.5), GREEN)


def test_nothing_stays_open_of_a_file_that_is_gone(path: Path) -> None:
    source = frames.Framebuffer(str(path))
    source.mark()
    assert str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")
    path.unlink()
    with pytest.raises(SandboxError):
        source.mark()
    assert str(path) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [link for link in links if link.startswith(str(path))]


@pytest.mark.parametrize("left", [0, 50, 100, 5000, 100 + SIZE[0] * SIZE[1] * 4 - 1])
def test_a_file_that_is_cut_off(path: Path, left: int) -> None:
    """To read on would be the end of this process."""
    source = frames.Framebuffer(str(path))
    whole = source.mark()
    os.truncate(path, left)
    for _ in range(2):
        with pytest.raises(SandboxError, match="no picture that can be read"):
            source.mark()
    with pytest.raises(SandboxError, match="no picture that can be read"):
        source.encoded(None, "png")
    drawn(path, halves())
    assert source.mark() == whole


def spoilt(content: bytes, seed: int, reach: int) -> bytes:
    """The content with some bytes changed among the first ones."""
    dice, found = random.Random(seed), bytearray(content)  # noqa: S311 - the same at each run
    for _ in range(dice.randrange(1, 5)):
        found[dice.randrange(reach)] = dice.randrange(256)
    return bytes(found)


@pytest.mark.parametrize("seed", range(30))
def test_garbage(path: Path, seed: int) -> None:
    """Either it is no picture, or a picture of it can be made."""
    source = frames.Framebuffer(str(path))
    path.write_bytes(spoilt(path.read_bytes(), seed, reach=100))
    try:
        source.mark()
    except SandboxError:
        return
    assert opened(source.encoded(160, "jpeg")).width == 160


def test_what_is_no_file(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    for each in (link, pipe, path.parent):
        with pytest.raises(SandboxError):
            frames.Framebuffer(str(each)).mark()


class Client:
    """As much of an X client as it takes to fill rectangles of the root window."""

    def __init__(self, screen: display.Display, folder: Path) -> None:
        cookie = Path(display.cookie_file(str(folder))).read_bytes()[-16:]
        name = b"MIT-MAGIC-COOKIE-1"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(f"/tmp/.X11-unix/X{screen.number}")
        self._socket.sendall(
            struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie)) + name + b"\0\0" + cookie
        )
        status, length = struct.unpack("<B5xH", self._received(8))
        setup = self._received(length * 4)
        assert status == 1, setup
        vendor, formats = struct.unpack_from("<H", setup, 16)[0], setup[21]
        (self._root,) = struct.unpack_from("<I", setup, 32 + (vendor + 3) // 4 * 4 + formats * 8)
        self._context = struct.unpack_from("<I", setup, 4)[0]

    def _received(self, size: int) -> bytes:
        return self._socket.recv(size, socket.MSG_WAITALL)

    def fill(self, colour: Colour, x: int, y: int, width: int, height: int) -> None:
        """Returns when it is done."""
        pixel = int.from_bytes(bytes(colour))
        create = struct.pack("<BxHIIII", 55, 5, self._context, self._root, 4, pixel)
        fill = struct.pack("<BxHIIhhHH", 70, 5, self._root, self._context, x, y, width, height)
        free, round_trip = struct.pack("<BxHI", 60, 2, self._context), struct.pack("<BxH", 43, 1)
        self._socket.sendall(create + fill + free + round_trip)
        assert self._received(32)[0] == 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[display.Display]:
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb")
    starting = display.Starting(Host.this(), str(tmp_path), SIZE, glx=False)
    try:
        yield starting.ready()
    finally:
        starting.stop()


def test_a_real_server(screen: display.Display, tmp_path: Path) -> None:
    source = frames.Framebuffer(display.framebuffer(str(tmp_path)))
    client = Client(screen, tmp_path)
    try:
        empty = source.mark()
        client.fill(RED, 0, 0, *SIZE)
        red = source.mark()
        client.fill(BLUE, SIZE[0] // 2, 0, SIZE[0] // 2, SIZE[1])
        both = source.encoded(160, "jpeg")
        assert len({empty, red, both.mark}) == 3
        assert source.mark() == both.mark
        assert_colour(opened(both), (0.2, 0.5), RED)
        assert_colour(opened(both), (0.8, 0.5), BLUE)
        client.fill(RED, 0, 0, *SIZE)
        assert source.mark() == red
    finally:
        client.close()


class Guest:
    """What gives pictures, and says how often it was asked."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.error: SandboxError | None = None
        self.asked = 0

    def take(self) -> bytes:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.content


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass, which otherwise stands still."""
    now = time.monotonic()

    def passed(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    return passed


def test_shots_are_taken_now_and_then(sleep: Callable[[float], None]) -> None:
    guest = Guest(png(halves()))
    shot = frames.Shot(guest.take)
    assert guest.asked == 0
    first = shot.mark()
    guest.content = png(halves(GREEN, GREEN))
    sleep(4.9)
    assert (shot.mark(), shot.encoded(160, "png").mark, guest.asked) == (first, first, 1)
    sleep(0.2)
    assert shot.mark() != first
    assert guest.asked == 2
    guest.content = png(halves())
    sleep(5)
    assert (shot.mark(), guest.asked) == (first, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_a_shot(kind: frames.Kind) -> None:
    shot = frames.Shot(Guest(png(halves())).take)
    for width, size in ((160, (160, 90)), (None, SIZE)):
        encoded = shot.encoded(width, kind)
        assert (opened(encoded).format, opened(encoded).size) == (kind.upper(), size)
        assert encoded.mark == shot.mark()
        assert_colour(opened(encoded), (0.2, 0.5), RED)
        assert_colour(opened(encoded), (0.8, 0.5), BLUE)


def test_a_guest_that_gives_none_is_left_alone_for_a_while(sleep: Callable[[float], None]) -> None:
    guest = Guest(png(halves()))
    shot = frames.Shot(guest.take)
    first = shot.mark()
    guest.error = SandboxError("It hangs.", "Wait.")
    sleep(5)
    for _ in range(3):
        with pytest.raises(SandboxError, match="It hangs"):
            shot.mark()
    with pytest.raises(SandboxError, match="It hangs"):
        shot.encoded(160, "jpeg")
    assert guest.asked == 2
    guest.error = None
    sleep(5)
    assert shot.mark() == first


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def headed(*sizes: tuple[int, int]) -> bytes:
    """A PNG with these headers, and pixels for a small picture."""
    headers = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)) for size in sizes)
    pixels = chunk(b"IDAT", zlib.compress(bytes(2 * (1 + 2 * 3))))
    return b"\x89PNG\r\n\x1a\n" + headers + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GIF89a" + bytes(100), id="another-format"),
        pytest.param(headed((0, 2)), id="no-width"),
        pytest.param(headed((7681, 4320)), id="too-wide"),
        pytest.param(headed((100_000, 100_000)), id="bomb"),
    ],
)
def test_a_shot_that_is_no_picture_of_a_screen(content: bytes) -> None:
    with pytest.raises(SandboxError, match="no picture of a screen"):
        frames.Shot(Guest(content).take).mark()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png(halves())[:200], id="cut-off"),
        pytest.param(headed((7680, 4320)), id="no-pixels-for-it"),
        pytest.param(headed((2, 2), (100_000, 100_000)), id="second-header-of-a-bomb"),
        pytest.param(headed((2, 2), (3, 3)), id="second-header"),
        pytest.param(headed((2, 2)).replace(b"\x08\x02\0\0\0", b"\x63\x02\0\0\0"), id="unknown-mode"),
        pytest.param(headed((2, 2))[:33] + bytes(50), id="no-chunks"),
    ],
)
def test_a_shot_that_is_damaged(content: bytes) -> None:
    shot = frames.Shot(Guest(content).take)
    assert shot.mark()
    with pytest.raises(SandboxError, match=r"damaged|two sizes"):
        shot.encoded(160, "jpeg")


@pytest.mark.parametrize("seed", range(30))
def test_a_shot_with_garbage_in_it(seed: int) -> None:
    """Either it is no picture, or a picture of it can be made."""
    content = png(halves())
    guest = Guest(spoilt(content, seed, reach=len(content)))
    try:
        encoded = frames.Shot(guest.take).encoded(160, "jpeg")
    except SandboxError:
        return
    assert opened(encoded).width == 160
