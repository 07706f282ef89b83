# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""ui: the manager's own pages through the tunnel, logged in."""

from __future__ import annotations

import json
import socket
import time

import pexpect

from tests.manager.served import Served
from tests.remote.impostor import health, impostor
from tests.remote.server import Laptop, Server


def _get(here: Laptop, url: str, cookies: str = "") -> str:
    jar = str(here.folder / "jar")
    return here.net("curl", "-s", "-i", "-L", "--max-time", "5", "-b", jar, "-c", jar, url).stdout + cookies


def test_ui(here: Laptop, served: Served, server: Server) -> None:
    browser = here.folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {here.folder}/opened\n')
    browser.chmod(0o755)
    tunnel = here.spawn("ui", environ={"BROWSER": f"{browser} %s"})
    tunnel.expect(r"(http://127\.0\.0\.1:(\d+)/login/[A-Za-z0-9_-]+)")
    url, port = tunnel.match.group(1), tunnel.match.group(2)
    tunnel.expect("until Ctrl-C")
    assert (here.folder / "opened").read_text().strip() == url
    assert "HTTP/1.1 200" in _get(here, url)
    page = _get(here, f"http://127.0.0.1:{port}/")
    assert "HTTP/1.1 200" in page
    assert "sandbox" in page.lower()

    server.cut()
    tunnel.expect("Trying again")
    tunnel.expect("The tunnel is back", timeout=30)
    assert "HTTP/1.1 200" in _get(here, f"http://127.0.0.1:{port}/healthz")

    tunnel.sendintr()
    tunnel.expect("The tunnel is closed")
    tunnel.expect(pexpect.EOF)
    tunnel.wait()
    assert tunnel.exitstatus == 0
    assert here.run("list").returncode == 0


def test_a_port_that_is_taken(here: Laptop, served: Served) -> None:
    # The laptop's own network: the port is taken by another tunnel there.
    first = here.spawn("ui", "--no-browser", "--port", "18080")
    first.expect("until Ctrl-C")
    second = here.run("ui", "--no-browser", "--port", "18080", environ={"CLAUDE_REMOTE_SSH_OPTS": _other(here)})
    assert (second.returncode, "Port 18080 of this machine cannot be used" in second.stderr) == (1, True)
    first.sendintr()
    first.expect("The tunnel is closed")


def _other(here: Laptop) -> str:
    """Options with which the connection is another one."""
    return f"{here.environ['CLAUDE_REMOTE_SSH_OPTS']} -o Compression=yes"


def test_where_no_login_is_needed(server: Server, cable: tuple[int, str, str], served: Served) -> None:
    from tests.manager.served import serving
    from tests.remote.server import laptop

    with serving(served.account) as plain, laptop(server, cable[0], "root", plain.port) as made:
        tunnel = made.spawn("ui", "--no-browser")
        tunnel.expect(r"http://127\.0\.0\.1:\d+/\r\n")
        tunnel.sendintr()
        tunnel.expect("The tunnel is closed")


def test_the_network_goes_away_for_a_while(here: Laptop, served: Served) -> None:
    tunnel = here.spawn("ui", "--no-browser")
    tunnel.expect(r"http://127\.0\.0\.1:(\d+)/login")
    port = tunnel.match.group(1)
    tunnel.expect("until Ctrl-C")
    here.net("ip", "link", "set", "eth0", "down")
    tunnel.expect("Trying again", timeout=40)
    time.sleep(2)
    here.net("ip", "link", "set", "eth0", "up")
    tunnel.expect("The tunnel is back", timeout=60)
    assert "HTTP/1.1 200" in _get(here, f"http://127.0.0.1:{port}/healthz")
    tunnel.sendintr()
    tunnel.expect("The tunnel is closed")


def test_the_port_is_on_loopback_alone(here: Laptop, served: Served, cable: tuple[int, str, str]) -> None:
    tunnel = here.spawn("ui", "--no-browser", "--port", "18081")
    tunnel.expect("until Ctrl-C")
    address = cable[1].rpartition(".")[0] + ".2"
    with socket.socket() as probe:
        probe.settimeout(2)
        assert probe.connect_ex((address, 18081)) != 0
    tunnel.sendintr()
    tunnel.expect("The tunnel is closed")


def test_only_the_path_of_a_link_is_the_server_s(here: Laptop) -> None:
    """A browser is led to the tunnel's own end, whatever the server answers."""
    code = "c" * 43
    for url, path in ((f"http://evil.example/login/{code}", f"/login/{code}"), (f"file:///login/{code}", None)):
        answers = {"/healthz": health(), "/api/login-links": (201, json.dumps({"url": url}).encode())}
        with impostor(answers) as port:
            tunnel = here.spawn("ui", "--no-browser", environ={"CLAUDE_REMOTE_PORT": str(port)})
            if path is None:
                tunnel.expect_exact("The manager gave no link to log in.")
            else:
                tunnel.expect(rf"http://127\.0\.0\.1:\d+{path}\r\n")
                tunnel.sendintr()
                tunnel.expect("The tunnel is closed")
