"""What a display shows: the header of a framebuffer's file, and the picture made of it."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import pytest
from PIL import Image

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import screen
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

SIZE = (5, 4)
NAME_AND_COLOURS = 8 + 2 * 12  # bytes behind the fields of the header: the window's name, and two colours
FIELDS = {0: 108, 1: 7, 2: 2, 3: 24, 4: 5, 5: 4, 7: 0, 11: 32, 12: 20, 19: 2}


def header(**changed: int) -> bytes:
    """A header of a picture of 5x4 pixels; field 4 is changed by `f4`."""
    fields = {**FIELDS, **{int(name[1:]): value for name, value in changed.items()}}
    return struct.pack(">25I", *(fields.get(number, 0) for number in range(25)))


def framebuffer(picture: Image.Image, **changed: int) -> bytes:
    """A picture of the size in the header, as Xvfb keeps it."""
    return header(**changed) + bytes(NAME_AND_COLOURS) + picture.tobytes("raw", "BGRX")


def colourful() -> Image.Image:
    """A picture whose rows are different ones, and then twice the same."""
    picture = Image.new("RGB", SIZE, (1, 2, 3))
    for x in range(SIZE[0]):
        picture.putpixel((x, 1), (50 * x, 255 - 50 * x, 7))
    return picture


def test_the_layout() -> None:
    found = screen.layout(header(), 10_000)
    assert (found.width, found.height, found.stride) == (5, 4, 20)
    assert (found.start, found.end) == (100 + NAME_AND_COLOURS, 100 + NAME_AND_COLOURS + 80)


def test_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "Xvfb_screen0"
    path.write_bytes(framebuffer(colourful()) + b"behind it")
    picture = Image.open(io.BytesIO(screen.png(str(path))))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", SIZE)
    assert picture.tobytes() == colourful().tobytes()


def test_a_picture_of_one_pixel(tmp_path: Path) -> None:
    path = tmp_path / "Xvfb_screen0"
    path.write_bytes(framebuffer(Image.new("RGB", (1, 1), (9, 8, 7)), f4=1, f5=1, f12=4))
    assert Image.open(io.BytesIO(screen.png(str(path)))).getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"f4": 0, "f12": 0}, id="no-width"),
        pytest.param({"f5": 0}, id="no-height"),
        pytest.param({"f4": 7681, "f12": 4 * 7681}, id="too-wide"),
        pytest.param({"f5": 4321}, id="too-high"),
        pytest.param({"f5": 0xFFFFFFFF}, id="highest"),
        pytest.param({"f12": 24}, id="padded-rows"),
        pytest.param({"f11": 16}, id="16-bits"),
        pytest.param({"f2": 1}, id="planes"),
        pytest.param({"f7": 1}, id="other-order"),
        pytest.param({"f0": 0, "f19": 0}, id="pixels-in-the-header"),
        pytest.param({"f0": 0xFFFFFFFF}, id="long-header"),
        pytest.param({"f19": 0xFFFFFFFF}, id="many-colours"),
    ],
)
def test_a_header_that_cannot_be(changed: dict[str, int]) -> None:
    with pytest.raises(SandboxError, match="no picture that can be read"):
        screen.layout(header(**changed), 1 << 40)


@pytest.mark.parametrize("length", [0, 1, 99])
def test_a_header_that_is_cut_off(length: int) -> None:
    with pytest.raises(SandboxError, match="no picture that can be read"):
        screen.layout(header()[:length], 1 << 40)


def test_pixels_that_are_cut_off() -> None:
    end = screen.layout(header(), 10_000).end
    assert screen.layout(header(), end).end == end
    with pytest.raises(SandboxError, match="no picture that can be read"):
        screen.layout(header(), end - 1)


def test_no_file(tmp_path: Path) -> None:
    """A link would lead to a file of whoever looks; a pipe would make them wait."""
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    (tmp_path / "real").write_bytes(framebuffer(colourful()))
    link.symlink_to("real")
    os.mkfifo(pipe)
    for path in (tmp_path / "missing", link, pipe, tmp_path):
        with pytest.raises(SandboxError, match="framebuffer is gone"):
            screen.png(str(path))


def test_the_size_of_a_picture() -> None:
    with io.BytesIO() as file:
        Image.new("RGB", (7, 3)).save(file, "png")
        assert screen.dimensions(file.getvalue()) == (7, 3)
        for wrong in (b"", file.getvalue()[:20], b"\xff\xd8" + file.getvalue()[2:]):
            with pytest.raises(SandboxError, match="no picture of a screen"):
                screen.dimensions(wrong)


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (7681, 1), (1, 4321), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_the_size_of_a_picture_that_no_screen_has(size: tuple[int, int]) -> None:
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", *size)
    with pytest.raises(SandboxError, match="no picture of a screen"):
        screen.dimensions(start)
