# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A look at a screen that did not change, and a card of one that did, against a picture by ImageMagick: in CPU time."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import display
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host

from . import place
from .figure import Figure, Samples, in_turns, ratio, shown

UNCHANGED_LIMIT = 0.01
CARD_LIMIT = 0.125
_SIZE = (1920, 1080)
_ROUNDS = 15
_SECONDS = 30
_ROOT = pathlib.Path(__file__).resolve().parent.parent
# The manager's part runs by itself, as it does in the manager: there the engine has another name than here.
_WATCHER = """\
import sys
import time

from manager_app.frames import Framebuffer

source = Framebuffer(sys.argv[1])
for line in sys.stdin:
    since = time.process_time()
    mark = source.mark()
    if line == "card\\n":
        mark = source.encoded(480, "jpeg").mark
    print(mark, (time.process_time() - since) * 1000, flush=True)
"""


class _Watcher:
    """A process that looks at a framebuffer when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._mark = ""

    def unchanged(self) -> float:
        """The milliseconds of CPU for a mark, which is the one before."""
        return self._look("mark", changed=False)

    def changed(self) -> float:
        """The milliseconds of CPU for a mark and a card of a screen that has changed."""
        return self._look("card", changed=True)

    def _look(self, what: str, changed: bool) -> float:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the watcher has no pipes")
        print(what, file=self._process.stdin, flush=True)
        mark, cost = self._process.stdout.readline().split()
        if self._mark and (mark != self._mark) is not changed:
            raise RuntimeError("the screen changed by itself, or did not when another picture was put on it")
        self._mark = mark
        return float(cost)


def measure(where: place.Place) -> Iterator[Figure]:
    """Both figures, of one run."""
    for program in ("import", "display"):
        if shutil.which(program) is None:
            raise RuntimeError(f"there is no `{program}`, of ImageMagick's: apt-get install imagemagick")
    folder = f"{where.folder}/screen-of-frames"
    os.mkdir(folder, 0o700)
    pictures = [_desktop(f"{folder}/{number}.png", number) for number in range(2)]
    with _screen(folder) as environ, _watcher(display.framebuffer(folder)) as watcher:
        watcher.unchanged()

        def card() -> float:
            pictures.reverse()
            # It ends with 1 also where it did its work: whether it did is seen by the mark.
            subprocess.run(["display", "-window", "root", pictures[0]], env=environ, check=False, timeout=_SECONDS)
            return watcher.changed()

        work = {
            "import": lambda: _imported(f"{folder}/import.png", environ),
            "mark": watcher.unchanged,
            "mark and card": card,
        }
        samples = in_turns(_ROUNDS, work)
    yield _figure("frame-unchanged", "mark", UNCHANGED_LIMIT, samples)
    yield _figure("frame-card", "mark and card", CARD_LIMIT, samples)


def _figure(name: str, what: str, limit: float, samples: Samples) -> Figure:
    share = statistics.median(samples["import"]) / statistics.median(samples[what])
    kept = {each: samples[each] for each in ("import", what)}
    notes = (f"CPU at {_SIZE[0]}x{_SIZE[1]}: {shown(kept)}; a {share:.0f}th",)
    return Figure(name, ratio(samples[what], samples["import"]), limit, notes)


def _imported(path: str, environ: dict[str, str]) -> float:
    """The milliseconds of CPU for a picture of the screen by ImageMagick."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["import", "-window", "root", f"png:{path}"], env=environ, check=True, timeout=_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


@contextlib.contextmanager
def _screen(folder: str) -> Iterator[dict[str, str]]:
    """A sandbox's display without the sandbox; what its clients find it by."""
    starting = display.Starting(Host.this(), folder, _SIZE, glx=False)
    try:
        found = {"DISPLAY": f":{starting.ready().number}", "XAUTHORITY": display.cookie_file(folder)}
        # Threads that wait for one another burn time: one by itself takes least.
        yield {**os.environ, **found, "MAGICK_THREAD_LIMIT": "1"}
    finally:
        starting.stop()


@contextlib.contextmanager
def _watcher(framebuffer: str) -> Iterator[_Watcher]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WATCHER, framebuffer],
        env={**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT}/plugins/module_utils"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    # It ends with its input.
    with process:
        yield _Watcher(process)


def _desktop(path: str, number: int) -> str:
    """Write a picture of a desktop, with a number in it: text in two windows before a gradient."""
    picture = Image.merge(
        "RGB",
        [
            Image.linear_gradient("L").resize(_SIZE),
            Image.radial_gradient("L").resize(_SIZE),
            Image.new("L", _SIZE, 90),
        ],
    )
    draw = ImageDraw.Draw(picture)
    _window(draw, (100, 80, 1300, 900), ("white", "black"), f"{number} The quick brown fox jumps over the lazy dog. ")
    _window(
        draw, (900, 400, 1850, 1000), ("#202530", "#80ff90"), f"def add{number}(one, other): return one + other  # "
    )
    picture.save(path)
    return path


def _window(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colours: tuple[str, str], text: str) -> None:
    font = ImageFont.load_default(14)
    draw.rectangle(box, fill=colours[0])
    for row, y in enumerate(range(box[1] + 10, box[3] - 20, 18)):
        draw.text((box[0] + 10, y), (text * 4)[row % 40 : row % 40 + 110], fill=colours[1], font=font)
