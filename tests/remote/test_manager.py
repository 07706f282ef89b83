# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the manager is asked for through a real sshd, from a network in which it cannot be reached otherwise."""

from __future__ import annotations

import json
import stat
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from tests.manager.served import Served
from tests.remote.conftest import TOKEN, give_token
from tests.remote.server import Laptop, Server
from tests.support.account import Account

_WITHHELD = ("claude", "git", "ssh", "gh", "display")
SHELL = ("--agent", "shell", *(word for grant in _WITHHELD for word in ("--no-grant", grant)))


def test_life_of_a_sandbox(here: Laptop, served: Served, account: Account) -> None:
    project = served.project("life")
    made = here.run("create", "life", "bubblewrap", str(project), "--user", account.name, *SHELL)
    assert (made.returncode, made.stderr) == (0, "")
    assert "life is running (bubblewrap" in made.stdout
    assert "claude-remote attach life" in made.stdout

    listed = here.run("list")
    head, row = listed.stdout.splitlines()
    assert head.split() == ["NAME", "ID", "STATUS", "BACKEND", "AGE", "USER", "PROJECT"]
    assert row.split()[0] == "life"
    assert row.split()[2:4] == ["running", "bubblewrap"]
    assert row.endswith(f"{account.name}  {project}")
    identity = row.split()[1]
    [view] = json.loads(here.run("list", "--json").stdout)
    assert (view["id"], view["name"]) == (identity, "life")

    assert "life is stopped" in here.run("stop", identity[:6]).stdout
    assert here.run("start", "life").returncode == 0
    assert served.call("GET", "/api/sandboxes/life").json()["status"] == "running"
    gone = here.run("delete", "life")
    assert (gone.returncode, gone.stdout) == (0, "life is removed; its project is untouched.\n")
    assert served.call("GET", "/api/sandboxes/life").status_code == 404
    assert project.is_dir()


def test_a_long_work_is_waited_for(here: Laptop, served: Served, account: Account) -> None:
    """create asks for a job, and its failure comes with the manager's words."""
    failed = here.run("create", "none", "bubblewrap", "/nonexistent/place", "--user", account.name, *SHELL)
    assert failed.returncode == 1
    assert failed.stderr.startswith("claude-remote: ")
    assert "/nonexistent/place" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_what_cannot_be_found(here: Laptop, served: Served) -> None:
    served.make("one")
    none, host = here.run("stop", "two"), here.environ["CLAUDE_REMOTE_HOST"]
    assert none.returncode == 3
    assert none.stderr == f"claude-remote: There is no sandbox two on {host}. claude-remote list shows them.\n"


def test_a_warm_connection_starts_no_ssh(here: Laptop, served: Served, tmp_path: Path) -> None:
    """With a PATH on which there is none."""
    served.make("one")
    assert here.run("list").returncode == 0
    warm = here.run("list", environ={"PATH": str(tmp_path)})
    assert (warm.returncode, warm.stderr) == (0, "")
    assert "one" in warm.stdout
    assert here.run("disconnect").stdout.startswith("The connection to ")
    cold = here.run("list", environ={"PATH": str(tmp_path)})
    assert (cold.returncode, "There is no ssh here." in cold.stderr) == (5, True)


def test_two_commands_at_once_make_one_connection(here: Laptop, served: Served) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        codes = [each.returncode for each in pool.map(lambda _: here.run("list"), range(4))]
    assert codes == [0, 0, 0, 0]
    masters = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(here.runtime()).encode() in _read(path) and b"-N" in _read(path).split(b"\0")
    ]
    assert len(masters) == 1


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_what_is_kept_is_private(here: Laptop, served: Served) -> None:
    assert here.run("list").returncode == 0
    folder = here.runtime()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    facts = [path for path in folder.iterdir() if TOKEN in (path.read_text() if path.is_file() else "")]
    assert len(facts) == 1
    assert stat.S_IMODE(facts[0].stat().st_mode) == 0o600
    here.run("disconnect")
    assert not facts[0].exists()


def test_a_folder_that_others_may_enter_is_not_used(here: Laptop, served: Served) -> None:
    here.runtime().mkdir(mode=0o755)
    refused = here.run("list")
    assert (refused.returncode, "not a directory of yours alone" in refused.stderr) == (1, True)


def test_the_manager_is_started_again(here: Laptop, served: Served) -> None:
    """The connection stays, and serves the next one."""
    assert here.run("list").returncode == 0
    assert served.end() == 0
    try:
        down = here.run("list")
        assert down.returncode == 5
        assert f"No manager answers on {here.environ['CLAUDE_REMOTE_HOST']} at 127.0.0.1:{served.port}." in down.stderr
    finally:
        served.start()
        served.web.headers["Authorization"] = f"Bearer {TOKEN}"
    assert here.run("list").returncode == 0


def test_a_lost_connection_is_made_again(here: Laptop, served: Served, server: Server) -> None:
    assert here.run("list").returncode == 0
    server.cut()
    assert here.run("list").returncode == 0


def test_no_token(here: Laptop, served: Served, account: Account) -> None:
    path = give_token(account, TOKEN)
    path.unlink()
    try:
        refused = here.run("list")
        assert (refused.returncode, len(refused.stderr.splitlines())) == (6, 1)
        assert "wants a token, and none was found" in refused.stderr
        # One that was exchanged meanwhile is fetched again.
        give_token(account, TOKEN)
        assert here.run("list").returncode == 0
    finally:
        give_token(account, TOKEN)


def test_a_wrong_token(here: Laptop, served: Served, account: Account) -> None:
    give_token(account, "another-token-of-thirty-characters")
    try:
        refused = here.run("list")
        assert (refused.returncode, "does not take the token" in refused.stderr) == (6, True)
        assert "another-token" not in refused.stderr
    finally:
        give_token(account, TOKEN)


def test_a_token_elsewhere(here: Laptop, served: Served, account: Account, server: Server) -> None:
    give_token(account, TOKEN).rename(account.home / "-my token")
    config = here.home / ".config/claude-remote/config"
    config.parent.mkdir(parents=True)
    content = f'[hosts.work]\nhost = "{account.name}@{server.address}"\nport = {served.port}\n'
    content += f'ssh_opts = ["-F", "{here.folder}/ssh_config"]\n'
    try:
        config.write_text(f'{content}token_file = "~/-my token"\n')
        assert here.run("--host", "work", "list").returncode == 0
        assert here.run("list", "--host", "work").returncode == 0
        config.write_text(f'{content}token_file = "~/nothing"\n')
        missing = here.run("list", "--host", "work")
        assert (missing.returncode, "~/nothing is not there" in missing.stderr) == (6, True)
    finally:
        (account.home / "-my token").unlink()
        give_token(account, TOKEN)


def test_all_hosts(here: Laptop, served: Served, account: Account, server: Server) -> None:
    """Those that answer are shown, also where one does not."""
    served.make("one")
    config = here.home / ".config/claude-remote/config"
    config.parent.mkdir(parents=True)
    common = f'host = "{account.name}@{server.address}"\nssh_opts = ["-F", "{here.folder}/ssh_config"]\n'
    config.write_text(f"[hosts.up]\n{common}port = {served.port}\n[hosts.down]\n{common}port = 1\n")
    both = here.run("list", "--all-hosts")
    assert both.returncode == 5
    assert both.stdout.splitlines()[0].split()[:2] == ["HOST", "NAME"]
    assert both.stdout.splitlines()[1].split()[:2] == ["up", "one"]
    assert both.stderr.startswith("claude-remote: down: No manager answers")
    figures = here.run("metrics", "--all-hosts", "--json")
    assert list(json.loads(figures.stdout)) == ["up"]


def test_without_a_token(server: Server, cable: tuple[int, str, str], account: Account) -> None:
    """A manager of root's without one answers root."""
    from tests.manager.served import serving
    from tests.remote.server import laptop

    with serving(account) as plain, laptop(server, cable[0], "root", plain.port) as made:
        listed = made.run("list")
        assert (listed.returncode, listed.stderr) == (0, "")
        assert "There are no sandboxes." in listed.stdout


def test_metrics(here: Laptop, served: Served) -> None:
    served.make("one")
    shown = here.run("metrics")
    assert shown.returncode == 0
    assert "memory_total_bytes: " in shown.stdout
    assert "one" in shown.stdout.splitlines()[-1]
    figures = json.loads(here.run("metrics", "one", "--json").stdout)
    assert figures["status"] == "running"
    assert figures["process"]["processes"] >= 1


def test_logs_are_inert(here: Laptop, served: Served) -> None:
    """Neither what the agent writes nor what it hides in names reaches the terminal as more than text."""
    made = served.make("one", agent=["sh", "-c", r"printf 'first\nleft\033]0;title\007\033[31mred\n'; exec sleep 1d"])
    assert made["status"] == "running"
    assert _until(lambda: "red" in here.run("logs", "one").stdout)
    lines = here.run("logs", "one").stdout.splitlines()
    assert lines[0] == "first"
    assert all(line.isprintable() for line in lines)
    assert here.run("logs", "one", "--tail", "0").stdout.strip() == ""


def test_logs_follow(here: Laptop, served: Served) -> None:
    made = served.make("one", agent=["sh", "-c", "read line; echo got $line; exec sleep 1d"])
    follower = here.spawn("logs", "one", "-f")
    time.sleep(2)
    assert made["tmux_socket"]
    subprocess.run(["tmux", "-S", made["tmux_socket"], "send-keys", "-t", "main", "hello", "Enter"], check=True)
    follower.expect("got hello")
    # Each line once, however often it is asked.
    assert follower.expect(["got hello", pexpect.TIMEOUT], timeout=3) == 1
    follower.sendintr()
    follower.expect_exact("")
    follower.wait()
    assert follower.exitstatus == 130


def test_screenshot(here: Laptop, served: Served) -> None:
    served.make("one", grants={"claude": False, "git": False, "ssh": False, "gh": False, "display": True})
    done = here.run("screenshot", "one", "-o", "a b.png", "--width", "320")
    assert done.returncode == 0, done.stderr
    content = (here.home / "a b.png").read_bytes()
    assert struct.unpack(">I", content[16:20])[0] == 320
    assert here.run("screenshot", "one", "-o", "x.webp").returncode == 0
    assert (here.home / "x.webp").read_bytes()[8:12] == b"WEBP"
    assert here.run("screenshot", "one", "-o", "/nonexistent/x.png").returncode == 1


def test_an_api_key_is_in_no_argv(here: Laptop, served: Served, account: Account) -> None:
    """It is taken from the environment or the standard input, and reaches the agent."""
    project = served.project("key")
    words = ("create", "key", "bubblewrap", str(project), "--user", account.name, *SHELL[2:])
    agent = ("--agent", "sh", "--agent", "-c", "--agent", 'echo "$ANTHROPIC_API_KEY" > key; exec sleep 1d')
    missing = here.run(*words, *agent, "--api-key-env", "sk-given-by-mistake")
    assert (missing.returncode, "sk-given" in missing.stderr) == (2, False)
    made = here.run(*words, *[f"--agent={word}" for word in agent[1::2]], "--api-key-stdin", input="sk-secret-1\n")
    assert made.returncode == 0, made.stderr
    assert _until(lambda: (project / "key").exists() and (project / "key").read_text() == "sk-secret-1\n")
    assert "sk-secret-1" not in json.dumps(served.call("GET", "/api/sandboxes/key").json())


@pytest.mark.parametrize("words", [["frob"], ["create", "x", "docker", "/x"], ["list", "--frob"], ["exec", "one"]])
def test_wrong_usage(here: Laptop, words: list[str]) -> None:
    assert here.run(*words).returncode == 2


def _until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False
