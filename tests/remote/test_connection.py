# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What keeps a laptop from a server, each told in one line; and servers that mean harm."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest

from tests.manager.served import Served
from tests.remote.impostor import health, impostor
from tests.remote.server import Laptop, Server

EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\r\nclaude-remote: all is well"


def _line(done: subprocess.CompletedProcess[str]) -> str:
    """What was said, which is one line of plain text."""
    assert done.stderr.endswith("\n")
    assert done.stderr[:-1].isprintable(), done.stderr
    return done.stderr


def test_no_host(here: Laptop) -> None:
    done = here.run("list", environ={"CLAUDE_REMOTE_HOST": ""})
    assert (done.returncode, "Set CLAUDE_REMOTE_HOST" in _line(done)) == (2, True)


@pytest.mark.parametrize("host", ["-oProxyCommand=touch${IFS}x", "a b", "x\x1b[0m"])
def test_a_host_that_is_none(here: Laptop, host: str) -> None:
    done = here.run("list", environ={"CLAUDE_REMOTE_HOST": host})
    assert (done.returncode, "is no host" in _line(done)) == (2, True)
    assert not (here.home / "x").exists()


def test_the_host_key_is_not_known(here: Laptop) -> None:
    (here.folder / "known_hosts").write_text("")
    done = here.run("list")
    assert (done.returncode, "host key is not known here" in _line(done)) == (5, True)


def test_the_host_key_has_changed(here: Laptop, server: Server) -> None:
    key = (server.folder / "other_key.pub").read_text()
    (here.folder / "known_hosts").write_text(f"{server.address} {key}")
    done = here.run("list")
    assert (done.returncode, "shows another host key than before" in _line(done)) == (5, True)


def test_the_login_is_refused(here: Laptop, server: Server) -> None:
    (here.folder / "key").write_text((server.folder / "other_key").read_text())
    done = here.run("list")
    assert (done.returncode, "refuses the login" in _line(done)) == (5, True)


def test_nobody_takes_connections(here: Laptop, server: Server) -> None:
    server.stop()
    try:
        done = here.run("list")
        assert (done.returncode, "takes no SSH connections: refused" in _line(done)) == (5, True)
    finally:
        server.start()


def test_the_network_is_down(here: Laptop) -> None:
    here.net("ip", "link", "set", "eth0", "down")
    try:
        done = here.run("list")
        assert (done.returncode, "cannot be reached" in _line(done)) == (5, True)
    finally:
        here.net("ip", "link", "set", "eth0", "up")
    assert here.run("list").returncode == 0


def test_a_name_that_nobody_has(here: Laptop) -> None:
    done = here.run("list", "--host", "nowhere.invalid")
    assert (done.returncode, "its name is not known" in _line(done)) == (5, True)


def test_forwarding_is_forbidden(here: Laptop, server: Server) -> None:
    server.again("AllowTcpForwarding no")
    try:
        done = here.run("list")
        assert (done.returncode, "forbids to forward" in _line(done)) == (5, True)
    finally:
        server.again()


def test_where_no_socket_can_be_forwarded(here: Laptop, served: Served) -> None:
    """Each request then has an ssh of its own; here because the settings of ssh say so."""
    served.make("one")
    with open(here.folder / "ssh_config", "a") as config:
        config.write("  ClearAllForwardings yes\n")
    for _ in range(2):
        piped = here.run("list")
        assert (piped.returncode, piped.stderr) == (0, "")
        assert "one" in piped.stdout
    assert here.run("stop", "one").returncode == 0
    assert not list(here.runtime().glob("*.http"))


def test_a_login_that_talks(here: Laptop, served: Served) -> None:
    """What the account's shell says when it starts is not taken for an answer."""
    profile = served.account.home / ".bashrc"
    before = profile.read_text()
    profile.write_text("echo; echo 'Welcome!'; echo claude-remote: facts; echo root; echo /root\n")
    try:
        assert here.run("list").returncode == 0
        [facts] = here.runtime().glob("*.json")
        assert json.loads(facts.read_text())["login"] == served.account.name
    finally:
        profile.write_text(before)


def _at(port: int) -> dict[str, str]:
    return {"CLAUDE_REMOTE_PORT": str(port)}


def test_no_manager_but_something_else(here: Laptop, server: Server) -> None:
    with impostor({"/healthz": (200, b"<html>ok</html>")}) as port:
        done = here.run("list", environ=_at(port))
        assert (done.returncode, "is no manager" in _line(done)) == (1, True)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            end, _address = listener.accept()
            with end:
                end.recv(4096)
                end.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        done = here.run("list", environ=_at(listener.getsockname()[1]))
        thread.join()
    assert (done.returncode, "does not speak HTTP" in _line(done)) == (1, True)


def test_another_version(here: Laptop) -> None:
    with impostor({"/healthz": health("0.9.3"), "/api/sandboxes": (200, b"[]")}) as port:
        done = here.run("list", environ=_at(port))
        assert (done.returncode, "runs version 0.9.3, this is 0.1.0" in _line(done)) == (0, True)
        # Said once for a connection.
        assert here.run("list", environ=_at(port)).stderr == ""
        lacking = here.run("metrics", environ=_at(port))
        assert (lacking.returncode, "does not know /api/metrics/system" in _line(lacking)) == (1, True)
    with impostor({"/healthz": health("0+clone"), "/api/sandboxes": (200, b"[]")}) as port:
        assert here.run("list", environ=_at(port)).stderr == ""


def test_an_evil_server_says_nothing_to_the_terminal(here: Laptop) -> None:
    evil = {"name": f"a{EVIL}", "id": EVIL, "status": EVIL, "backend": EVIL, "user": EVIL, "project_dir": EVIL}
    problem = json.dumps({"detail": EVIL, "hint": EVIL, "status": 409}).encode()
    answers = {
        "/healthz": health(f"7.{EVIL}"),
        "/api/sandboxes": (200, json.dumps([evil, {**evil, "name": "one", "created_at": EVIL}]).encode()),
        "/api/sandboxes/one/logs": (200, json.dumps({"lines": [EVIL], "next": "0.1"}).encode()),
        "/api/sandboxes/one/stop": (409, problem),
        "/api/metrics/system": (200, json.dumps({EVIL: EVIL}).encode()),
        "/api/sandboxes/one/metrics": (200, json.dumps({"status": EVIL, "activity": EVIL, "process": [1]}).encode()),
    }
    with impostor(answers) as port:
        for words in (
            ["list"],
            ["list", "--json"],
            ["logs", "one"],
            ["stop", "one"],
            ["metrics", "one"],
            ["start", "a"],
        ):
            done = here.run(*words, environ=_at(port))
            for line in (done.stdout + done.stderr).split("\n"):
                assert line.isprintable(), (words, line)
            assert "\nclaude-remote: all is well" not in done.stdout + done.stderr
        assert here.run("stop", "one", environ=_at(port)).returncode == 1


@pytest.mark.parametrize("field", ["user", "tmux_socket", "tmux_session"])
def test_an_evil_server_gives_no_command(here: Laptop, field: str) -> None:
    """What it says of a session is checked before it becomes words for a shell, or options for sudo."""
    view = {"name": "one", "id": "ab12", "status": "running", "user": "x", "tmux_socket": "/x", "tmux_session": "main"}
    view[field] = "-x; touch owned"
    with impostor({"/healthz": health(), "/api/sandboxes": (200, json.dumps([view]).encode())}) as port:
        terminal = here.spawn("attach", "one", environ=_at(port))
        terminal.expect_exact(f"The manager says a {field} that is none")
        terminal.wait()
        assert terminal.exitstatus == 1


def test_what_could_be_several(here: Laptop) -> None:
    views = [{"name": "one", "id": "ab12"}, {"name": "two", "id": "ab34"}, {"name": "ab", "id": "ff00"}]
    with impostor({"/healthz": health(), "/api/sandboxes": (200, json.dumps(views).encode())}) as port:
        done = here.run("stop", "a", environ=_at(port))
        assert (done.returncode, "one (ab12), two (ab34)" in _line(done)) == (4, True)
        # A name comes before the beginning of an id.
        assert "/api/sandboxes/ab/stop" in _line(here.run("stop", "ab", environ=_at(port)))
