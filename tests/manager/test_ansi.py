"""Terminal output as text and as HTML."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from manager_app import ansi

ESC = "\x1b"


@pytest.mark.parametrize(
    "text,expected",
    [
        ("plain äöü 漢字 🙂\ttab\nline", "plain äöü 漢字 🙂\ttab\nline"),
        (f"{ESC}[1;31mred{ESC}[0m", "red"),
        (f"{ESC}[?25l{ESC}[2J{ESC}[12;40Hhere{ESC}[>0c", "here"),
        (f"a{ESC}]0;title\x07b", "ab"),
        (f"a{ESC}]8;;javascript:alert(1){ESC}\\b{ESC}]8;;{ESC}\\c", "abc"),
        (f"a{ESC}]52;c;ZXZpbA==", "a"),
        (f"a{ESC}]0;never ended\nb", "a\nb"),
        (f"a{ESC}P1$qm{ESC}\\b{ESC}_app{ESC}\\c{ESC}^pm{ESC}\\d{ESC}Xsos{ESC}\\e", "abcde"),
        ("a\x9b31mb\x9d0;t\x9cc\x90q\x9cd\x85e", "abcde"),
        (f"a{ESC}7b{ESC}8c{ESC}(Bd{ESC}#8e{ESC}=f{ESC}>g{ESC}cM{ESC}", "abcdefgM"),
        (f"a{ESC}[12;", "a"),
        (f"a{ESC}[1{ESC}[31mb", "ab"),
        (f"{ESC}{ESC}[31m[32mb", "[32mb"),
        ("a\x00\x07\x08\x0b\x0c\x0e\x7fb", "ab"),
        ("user\u202etxt.exe\u202c \u2066x\u2069", "usertxt.exe x"),
        ("one\r\ntwo\r\r\nthree", "one\ntwo\nthree"),
        ("10 %\r20 %\r100 %", "100 %"),
        ("10 %\r", "10 %"),
        (f"a\r{ESC}[0m\nb", "a\nb"),
        (f"Claude{ESC}[CCode{ESC}[3Cv2{ESC}[0C.", "Claude Code   v2 ."),
        (f"a{ESC}[9999Cb{ESC}[99999Cc{ESC}[1;2Cd{ESC}[?1Ce", f"a{' ' * 80}bcde"),
        ("half \udcff of a character", "half  of a character"),
        ("", ""),
    ],
)
def test_plain(text: str, expected: str) -> None:
    assert ansi.plain(text) == expected


@pytest.mark.parametrize(
    "sequence,classes",
    [
        ("31", "fg-1"),
        ("97", "fg-15"),
        ("42", "bg-2"),
        ("107", "bg-15"),
        ("38;5;208", "fg-208"),
        ("38:5:208", "fg-208"),
        ("48;5;0", "bg-0"),
        ("38;2;255;0;0", "fg-196"),
        ("38:2::255:0:0", "fg-196"),
        ("38:2:255:0:0", "fg-196"),
        ("48;2;128;128;128", "bg-244"),
        ("48;2;22;68;38", "bg-22"),
        ("48;2;30;30;36", "bg-234"),
        ("1", "bold"),
        ("1;2;3;4;9", "bold dim italic strike underline"),
        ("4:3", "underline"),
        ("7", "fg-own bg-own"),
        ("31;44;7", "fg-4 bg-1"),
        ("31;7", "fg-own bg-1"),
        ("38;5;1;1", "fg-1 bold"),
        ("38;2;0;0;0;1", "fg-16 bold"),
        ("58;5;1;1", "bold"),
        ("58:2::1:2:3;1", "bold"),
    ],
)
def test_looks(sequence: str, classes: str) -> None:
    assert ansi.html(f"{ESC}[{sequence}mx", 80) == f'<span class="{classes}">x</span>'


@pytest.mark.parametrize(
    "sequence",
    [
        "0",
        "",
        "1;22",
        "2;22",
        "3;23",
        "4;24",
        "4;4:0",
        "7;27",
        "9;29",
        "31;39",
        "41;49",
        "1;0",
        "1;",
        "5",
        "8",
        "38",
        "38;5",
        "38;5;256",
        "38;5;99999999999999999999",
        "38;2;1;2",
        "38;2;256;0;0",
        "38:2",
        "38:5:",
        "999999",
        "9" * 10_000,
        "?1",
        ">4;1",
    ],
)
def test_no_looks(sequence: str) -> None:
    assert ansi.html(f"{ESC}[{sequence}mx", 80) in ("x", '<span class="fg-0">x</span>' if sequence == "38:5:" else "x")


def test_looks_go_on_to_the_next_line_and_every_span_ends_with_its_line() -> None:
    assert ansi.html(f"{ESC}[31ma\nb{ESC}[0m\nc", 80) == '<span class="fg-1">a</span>\n<span class="fg-1">b</span>\nc'


@pytest.mark.parametrize(
    "text,expected",
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("\"'&", "&#34;&#39;&amp;"),
        (f"<scr{ESC}[0mipt>", "&lt;script&gt;"),
        (f"{ESC}]8;;javascript:alert(1)\x07link{ESC}]8;;\x07", "link"),
        (f'{ESC}[3é"><img src=x>m', "é&#34;&gt;&lt;img src=x&gt;m"),
        (f"{ESC}]0;<b>never ended", ""),
        ("a\u202eb\x00c\x9b1md\udcff", 'abc<span class="bold">d</span>'),
        (f"{ESC}[2J{ESC}[1;1Hx{ESC}[K", "x"),
    ],
)
def test_hostile_text_is_inert(text: str, expected: str) -> None:
    assert ansi.html(text, 80) == expected


def test_lines_and_their_length_are_bounded() -> None:
    lines = ansi.html("\n".join(["x" * 1000] * 600), 80).split("\n")
    assert (len(lines), {len(line) for line in lines}) == (500, {160})
    coloured = ansi.html("".join(f"{ESC}[3{n % 8}mx" for n in range(1000)), 10)
    assert coloured.count("<span") == 20


@pytest.mark.parametrize(
    "unit",
    [
        f"{ESC}[",
        f"{ESC}]",
        f"{ESC}",
        f"{ESC}[1;",
        "\r",
        "\x9d",
        f"{ESC}[38;5;",
        f"{ESC}P{ESC}",
        "<",
        f"{ESC}[1m",
        "1;",
        ":",
    ],
)
@pytest.mark.parametrize("start", ["", f"{ESC}[", f"{ESC}]"])
def test_much_takes_its_time_once(start: str, unit: str) -> None:
    text = start + unit * (300_000 // len(unit))
    begun = time.process_time()
    assert ESC not in ansi.plain(text)
    assert ESC not in ansi.html(text, 200)
    assert time.process_time() - begun < 3


def test_only_our_own_elements_come_out() -> None:
    every = "".join(map(chr, range(0x300))) * 3
    found = ansi.html("".join(f"{ESC}[{n}m{every[n : n + 7]}" for n in range(700)), 5000)
    assert re.sub(r'<span class="[a-z0-9 -]+">|</span>', "", found).count("<") == 0


def test_the_style_sheet_is_what_is_made() -> None:
    assert Path(ansi.__file__).with_name("static").joinpath("ansi.css").read_text() == ansi.stylesheet()


@pytest.mark.parametrize("columns,name", [(1, 4), (80, 80), (81, 84), (160, 160), (10_000, 400), (-3, 4)])
def test_sizes(columns: int, name: int) -> None:
    assert ansi.size_class(columns) == f"columns-{name}"
    assert f".columns-{name} {{" in ansi.stylesheet()
