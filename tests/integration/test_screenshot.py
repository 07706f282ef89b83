"""claude_sandbox_screenshot: what a screen shows, as a file on the host or on the controller."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.integration import playing
from tests.integration.arena import PLAIN, Arena
from tests.integration.playing import Result, Task

SIZE = (320, 240)
SHOWN: dict[str, Any] = {"grants": {**PLAIN["grants"], "display": True}, "geometry": "320x240"}
# What it takes to fill the root window by X's own protocol: no client is sure to be among a sandbox's programs.
DRAW = """
import os, socket, struct, sys
cookie = open(os.environ["XAUTHORITY"], "rb").read()[-16:]
server = socket.socket(socket.AF_UNIX)
server.connect("/tmp/.X11-unix/X" + os.environ["DISPLAY"].lstrip(":").split(".")[0])
name = b"MIT-MAGIC-COOKIE-1"
server.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie)) + name + bytes(2) + cookie)
status, length = struct.unpack("<B5xH", server.recv(8, socket.MSG_WAITALL))
setup = server.recv(length * 4, socket.MSG_WAITALL)
assert status == 1, setup
vendor, formats = struct.unpack_from("<H", setup, 16)[0], setup[21]
root = struct.unpack_from("<I", setup, 32 + (vendor + 3) // 4 * 4 + formats * 8)[0]
context = struct.unpack_from("<I", setup, 4)[0]
create = struct.pack("<BxHIIII", 55, 5, context, root, 4, int(sys.argv[1], 16))
fill = struct.pack("<BxHIIhhHH", 70, 5, root, context, 0, 0, 320, 240)
server.sendall(create + fill + struct.pack("<BxH", 43, 1))
assert server.recv(32, socket.MSG_WAITALL)[0] == 1
"""


def drawn(arena: Arena, colour: str) -> Task:
    """A task that has the screen show one colour."""
    return arena.inside("python3", "-c", DRAW, colour)


def taken(arena: Arena, dest: Path, *, check: bool = False, **args: Any) -> Task:
    """A task that takes a picture."""
    return arena.task("claude_sandbox_screenshot", check=check, **{"name": "box", "dest": str(dest), **args})


@pytest.mark.parametrize("fetch", [False, True])
def test_a_picture(arena: Arena, tmp_path: Path, fetch: bool) -> None:
    path = tmp_path / "box.png"
    results = arena.play(
        arena.started(**SHOWN),
        drawn(arena, "c81e28"),
        taken(arena, path, fetch=fetch, check=True),
        taken(arena, path, fetch=fetch),
        taken(arena, path, fetch=fetch),
        drawn(arena, "1428c8"),
        taken(arena, tmp_path / "other.png", fetch=fetch, mode="0644"),
        taken(arena, tmp_path / "other.png", fetch=fetch, mode="0640"),
    )
    assert not any(result.failed for result in results), results
    _, _, predicted, done, again, _, other, its_mode = results
    assert [result.changed for result in (predicted, done, again, other, its_mode)] == [True, True, False, True, True]
    assert predicted["path"] == str(path)
    assert "checksum" not in predicted
    for result in (done, again):
        assert_told(result, path)
    assert_told(its_mode, tmp_path / "other.png")
    assert done["checksum"] != other["checksum"] == its_mode["checksum"]
    assert mode_of(path) == 0o600
    assert mode_of(tmp_path / "other.png") == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["box.png", "other.png"]


def assert_told(result: Result, path: Path) -> None:
    """That what the result says of the file is so, and that the picture itself is not in it."""
    content = path.read_bytes()
    assert result["path"] == str(path)
    assert (result["size"], result["checksum"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert struct.unpack_from(">8x8xII", content) == (result["width"], result["height"]) == SIZE
    assert "content" not in result


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_picture_that_is_there_is_not_written_again(arena: Arena, tmp_path: Path) -> None:
    """And one that somebody changed is."""
    here, there = tmp_path / "here.png", tmp_path / "there.png"
    first = arena.play(arena.started(**SHOWN), taken(arena, here, fetch=True), taken(arena, there))
    before = [path.stat() for path in (here, there)]
    again = arena.play(taken(arena, here, fetch=True), taken(arena, there))
    after = [path.stat() for path in (here, there)]
    assert [(each.st_ino, each.st_mtime_ns) for each in before] == [(each.st_ino, each.st_mtime_ns) for each in after]
    for path in (here, there):
        path.write_bytes(b"something else")
    anew = arena.play(taken(arena, here, fetch=True), taken(arena, there))
    assert [result.changed for result in (*first[1:], *again, *anew)] == [True, True, False, False, True, True]
    assert here.read_bytes() == there.read_bytes()


def test_a_relative_path_is_below_the_play(arena: Arena, tmp_path: Path) -> None:
    """As the copy module has it, and not wherever ansible-playbook was started."""
    _, done = arena.play(arena.started(**SHOWN), taken(arena, Path("box.png"), fetch=True), folder=tmp_path)
    assert not done.failed, done
    assert re.fullmatch(r"/.*/box\.png", done["path"])
    assert not (tmp_path / "box.png").exists()


def test_nothing_of_the_picture_is_printed(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "box.png"
    tasks = [arena.started(**SHOWN), taken(arena, path, fetch=True)]
    done = playing.play(tasks, "-vvv")
    assert done.results[1].changed
    # What every PNG begins with, in base64.
    assert "iVBORw0KGgo" not in done.output + json.dumps(done.results)


def test_what_cannot_be(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "box.png"
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    _, *wrong = arena.play(
        arena.started(**SHOWN),
        taken(arena, path, name="nobody"),
        taken(arena, path, name="nobody", fetch=True),
        taken(arena, folder),
        taken(arena, folder, fetch=True),
        taken(arena, pipe),
        taken(arena, pipe, fetch=True),
        taken(arena, tmp_path / "no" / "box.png"),
        taken(arena, tmp_path / "no" / "box.png", fetch=True),
        taken(arena, path, fetch=True, owner="root", attr="i"),
        taken(arena, path, fetch=True, mode="u=rw"),
        taken(arena, path, fetch=True, mode="99999"),
        arena.task("claude_sandbox_screenshot", name="box", fetch=True),
        arena.task("claude_sandbox_screenshot", name="box", dest="", fetch=True),
        arena.task("claude_sandbox_screenshot", name="box", dest=""),
    )
    assert all(result.failed and not result.changed for result in wrong), wrong
    words = [result.message for result in wrong]
    assert words[0] == words[1] == f"There is no sandbox 'nobody' in {arena.state_dir}."
    assert words[2] == words[3] == f"dest {folder} is no plain file."
    assert words[4] == words[5] == f"dest {pipe} is no plain file."
    assert words[6] == f"There is no directory for dest {tmp_path}/no/box.png: make it first."
    assert words[7] == f"The picture cannot be written to {tmp_path}/no/box.png: No such file or directory."
    assert words[8] == "With fetch, owner, attributes cannot be given: the file is on the controller."
    assert words[9] == words[10] == "With fetch, mode has to be an octal number such as '0600'."
    assert words[11] == "missing required arguments: dest"
    assert re.fullmatch("dest /.* is no plain file.", words[12])
    assert words[13] == "dest is empty: give the file to write."
    assert not any("Traceback" in str(result) for result in wrong)
    assert not path.exists()


def test_a_sandbox_that_shows_nothing(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "box.png"
    _, blind, *_, stopped, unknown = arena.play(
        arena.started(),
        taken(arena, path),
        arena.task(name="box", state="absent"),
        arena.started(**SHOWN),
        arena.task(name="box", state="stopped"),
        taken(arena, path),
        # In a play that would have made it first.
        taken(arena, path, name="later", check=True),
    )
    assert blind.message == "Sandbox 'box' has no display. Grant it one: grants: {display: true}."
    assert stopped.message == "Sandbox 'box' is not running. Start it first (state: started)."
    assert (unknown.failed, unknown.changed) == (False, True)
    assert not path.exists()


def test_without_its_action_plugin_nothing_is_fetched(arena: Arena, tmp_path: Path) -> None:
    """A module that is found by its short name may be alone: then the picture must not land in the result."""
    module = playing.CLONE / "plugins/modules"
    task = {**taken(arena, tmp_path / "box.png", fetch=True)}
    task["claude_sandbox_screenshot"] = task.pop("claude_code.nix_sandbox.claude_sandbox_screenshot")
    env = {"ANSIBLE_LIBRARY": str(module), "ANSIBLE_ACTION_PLUGINS": "/nonexistent"}
    _, alone = arena.play(arena.started(**SHOWN), task, env=env)
    assert alone.failed
    assert alone.message.startswith("fetch needs the module's full name")
