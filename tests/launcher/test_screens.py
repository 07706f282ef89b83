"""The person's own display: X11 with a real server, Wayland with a socket in a compositor's place."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.launcher.person import Person

SHELL = ("--shell", "--no-grant", "gpu", "--no-grant", "audio")


def _python(code: str) -> str:
    return f"python3 -c '{code}'"


# The protocol's first words: byte order, version, and the cookie as xauth tells it; the server's answer begins with 1.
_OPEN = _python(
    "import os, socket, struct, subprocess\n"
    'display = os.environ["DISPLAY"]\n'
    "try:\n"
    # Under whatever name: the host's has changed since, or is none of a sandbox's.
    '    lines = subprocess.run(["xauth", "list"], capture_output=True, text=True).stdout.splitlines()\n'
    "    known = [line.split()[2] for line in lines if line.split()[0].endswith((display, chr(58)))]\n"
    "    cookie = bytes.fromhex(known[0]) if known else bytes()\n"
    '    name = bytes(18) if not cookie else b"MIT-MAGIC-COOKIE-1"\n'
    "    s = socket.socket(socket.AF_UNIX)\n"
    '    s.connect("/tmp/.X11-unix/X" + display[1:])\n'
    '    s.send(struct.pack("<BxHHHHxx", 108, 11, 0, len(name), len(cookie)) + name + bytes(2) + cookie)\n'
    "    answer = s.recv(1) == bytes([1])\n"
    "except OSError:\n"
    "    answer = False\n"
    'print(display, "opened" if answer else "closed")\n'
)
_ABSTRACT = _python(
    "import socket\n"
    "s = socket.socket(socket.AF_UNIX)\n"
    "try:\n"
    '    s.connect(chr(0) + "/tmp/.X11-unix/X%s")\n'
    '    print("abstract opened")\n'
    "except OSError:\n"
    '    print("abstract closed")\n'
)
_WAYLAND = _python(
    "import os, socket\n"
    "s = socket.socket(socket.AF_UNIX)\n"
    "try:\n"
    '    s.connect(os.environ["XDG_RUNTIME_DIR"] + "/" + os.environ.get("WAYLAND_DISPLAY", "wayland-0"))\n'
    '    print("wayland opened")\n'
    "except OSError:\n"
    '    print("wayland closed")\n'
)


@pytest.fixture
def screen(person: Person) -> Iterator[str]:
    """The number of an X display that lets in whoever has the cookie in the person's ~/.Xauthority."""
    cookies = person.home / ".Xauthority"
    answer, number = os.pipe()
    # It is the person's own, and listens on the abstract socket, too, as a desktop's does.
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(number), "-auth", str(cookies), "-screen", "0", "320x200x24", "-nolisten", "tcp"],
        pass_fds=(number,),
        stderr=subprocess.DEVNULL,
        env=person.environ,
        preexec_fn=person.become,  # noqa: PLW1509 - it takes no lock
    )
    os.close(number)
    try:
        with os.fdopen(answer) as pipe:
            found = pipe.readline().strip()
        for display, cookie in ((f"old-name/unix:{found}", "a" * 32), (f"somebody/unix:{int(found) + 1}", "b" * 32)):
            person.run(argv=["xauth", "-f", str(cookies), "add", display, "MIT-MAGIC-COOKIE-1", cookie])
        # With a cookie in its file the server lets nobody in without one.
        server.send_signal(1)
        yield found
    finally:
        server.terminate()
        server.wait(10)
        cookies.unlink(missing_ok=True)


def test_a_client_inside_opens_the_persons_display(person: Person, screen: str) -> None:
    done = person.run(*SHELL, "--", "-c", _OPEN, env={"DISPLAY": f":{screen}"})
    assert done.stdout == f":{screen} opened\n", done


def test_the_cookie_of_that_display_alone(person: Person, screen: str) -> None:
    """And on any name: the sandbox's is not the host's."""
    done = person.run(*SHELL, "--", "-c", 'xauth -f "$XAUTHORITY" list', env={"DISPLAY": f":{screen}"})
    assert "a" * 32 in done.stdout, done
    assert "b" * 32 not in done.stdout
    seen = person.run(*SHELL, "--", "-c", "cat ~/.Xauthority", env={"DISPLAY": f":{screen}"})
    assert seen.returncode != 0


@pytest.mark.parametrize("without", [("--no-grant", "x11"), ("--grant", "display")])
def test_without_the_grant_it_cannot(person: Person, screen: str, without: tuple[str, ...]) -> None:
    """Neither by the socket, nor by the abstract one, with a cookie that it may have read somewhere."""
    cookie = person.project / "cookie"
    shutil.copy(person.home / ".Xauthority", cookie)
    person.account.own(cookie)
    env = {"DISPLAY": f":{screen}"}
    script = f"DISPLAY=:{screen} XAUTHORITY=$PWD/cookie; export DISPLAY XAUTHORITY; {_OPEN}; {_ABSTRACT % screen}"
    done = person.run(*SHELL, *without, "--", "-c", script, env=env)
    assert done.stdout == f":{screen} closed\nabstract closed\n", done
    # The probe can fail.
    done = person.run(argv=["/bin/sh", "-c", script], env=env)
    assert done.stdout == f":{screen} opened\nabstract opened\n", done


def test_a_project_can_take_the_display_away(person: Person, screen: str) -> None:
    (person.project / ".claude-sandbox.toml").write_text("grants.x11 = false\n")
    done = person.run(*SHELL, "--", "-c", "echo d=$DISPLAY", env={"DISPLAY": f":{screen}"})
    assert done.stdout == "d=\n", done


def test_a_display_of_its_own_where_there_is_none(person: Person) -> None:
    done = person.run(*SHELL, "--", "-c", _OPEN)
    assert done.stdout.endswith(" opened\n"), done
    assert done.stdout.startswith(":")


def test_wayland_in_place_of_x11(person: Person, screen: str) -> None:
    """Who has both gives the one in which windows are kept apart."""
    runtime = person.account.root / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as compositor:
        path = runtime / "wayland-7"
        path.unlink(missing_ok=True)
        compositor.bind(str(path))
        compositor.listen()
        person.account.own(runtime)
        env = {"DISPLAY": f":{screen}", "WAYLAND_DISPLAY": "wayland-7", "XDG_RUNTIME_DIR": str(runtime)}
        script = f"echo d=$DISPLAY; {_WAYLAND}"
        assert person.run(*SHELL, "--", "-c", script, env=env).stdout == "d=\nwayland opened\n"
        done = person.run(*SHELL, "--no-grant", "wayland", "--", "-c", script, env=env)
        assert done.stdout.endswith("wayland closed\n"), done
        path.unlink()


def test_other_sockets_of_the_session(person: Person) -> None:
    """ssh-agent and audio where they are there; the session bus only by its name."""
    runtime = person.account.root / "session"
    (runtime / "pulse").mkdir(parents=True, exist_ok=True)
    names = ("bus", "pipewire-0", "pulse/native", "agent")
    sockets = [socket.socket(socket.AF_UNIX) for _name in names]
    for name, each in zip(names, sockets, strict=True):
        each.bind(str(runtime / name))
    person.account.own(runtime)
    env = {"XDG_RUNTIME_DIR": str(runtime), "SSH_AUTH_SOCK": str(runtime / "agent")}
    script = "cd $XDG_RUNTIME_DIR; find . ! -type d | sort | xargs; echo $SSH_AUTH_SOCK $DBUS_SESSION_BUS_ADDRESS"
    words = ("--shell", "--no-grant", "display")
    inside = f"/run/user/{person.account.uid}"
    done = person.run(*words, "--", "-c", script, env=env)
    assert done.stdout == f"./pipewire-0 ./pulse/native ./ssh-agent\n{inside}/ssh-agent\n", done
    done = person.run(*words, "--grant", "dbus", "--no-grant", "audio", "--", "-c", script, env=env)
    assert done.stdout == f"./bus ./ssh-agent\n{inside}/ssh-agent unix:path={inside}/bus\n", done
    for each in sockets:
        each.close()
    shutil.rmtree(runtime)
