# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The parts of claude-remote that need no server."""

from __future__ import annotations

import argparse
import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from claude_remote import arguments, changing, config, exchange, manager, runtime, text, watching
from claude_remote.errors import AMBIGUOUS, NOT_FOUND, USAGE, LostError, RemoteError, UnansweredError

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cli/claude_remote"


@pytest.mark.parametrize(
    "given, shown",
    [
        ("plain – text é 漢", "plain – text é 漢"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\r\nb", r"a\r\nb"),
        ("a\tb", "a b"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("a\u202eb\u2066c\u2028b", r"a\u202eb\u2066c\u2028b"),
        ("\udc80", r"\udc80"),
        (None, "None"),
    ],
)
def test_inert(given: object, shown: str) -> None:
    assert text.inert(given) == shown
    assert text.inert(given).isprintable()


def test_a_table_is_aligned() -> None:
    shown = text.table(("A", "LONG"), [("x" * 5, 1), ("\x1b", None)]).splitlines()
    assert shown == ["A      LONG", "xxxxx  1", r"\x1b"]


@pytest.mark.parametrize(
    "seconds, said", [(-5, "0 s"), (59.9, "59 s"), (60, "1 min."), (3599, "59 min."), (7200, "2 h"), (200000, "2 days")]
)
def test_span(seconds: float, said: str) -> None:
    assert text.span(seconds) == said


@pytest.mark.parametrize("moment", [None, 3, "", "yesterday", "9999999-01-01", {}])
def test_an_age_that_cannot_be_told(moment: object) -> None:
    assert text.age(moment, 0) == "-"


def test_age() -> None:
    assert text.age("2026-01-01T00:00:00.500+00:00", 1767225600 + 185) == "3 min."


@pytest.mark.parametrize(
    "number, said", [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (50 << 20, "50 MiB"), (None, "-"), (True, "-")]
)
def test_size(number: object, said: str) -> None:
    assert text.size(number) == said


# Which server


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """One that leads to no settings but the test's."""
    (tmp_path / "claude-remote").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def _settings(environ: dict[str, str], content: str) -> None:
    Path(config.path(environ)).write_text(content)


def test_the_environment_names_it(environ: dict[str, str]) -> None:
    environ |= {"CLAUDE_REMOTE_HOST": "a@b", "CLAUDE_REMOTE_PORT": "80", "CLAUDE_REMOTE_SSH_OPTS": "-p 22 -i 'a b'"}
    found = config.chosen(None, environ)
    assert (found.host, found.port, found.ssh_opts) == ("a@b", 80, ("-p", "22", "-i", "a b"))
    assert config.chosen("other", environ).host == "other"


def test_the_settings_name_it(environ: dict[str, str]) -> None:
    _settings(environ, '[hosts.a]\nhost = "x"\n[hosts.b]\nhost = "y"\nport = 1\ndefault = true\ntoken_file = "~/t"\n')
    assert config.chosen(None, environ).host == "y"
    assert config.chosen("a", environ).host == "x"
    assert config.chosen("a", {**environ, "CLAUDE_REMOTE_HOST": "b"}).host == "x"
    assert config.chosen(None, {**environ, "CLAUDE_REMOTE_HOST": "a"}).host == "x"
    assert [each.name for each in config.everyone(environ)] == ["a", "b"]


@pytest.mark.parametrize(
    "content, why",
    [
        ("[hosts.a", "cannot be read"),
        ("x = 1", "something else"),
        ("hosts = 3", "something else"),
        ("[hosts]\na = 1", "something else"),
        ("[hosts.a]\nport = 1", "names no host"),
        ('[hosts.a]\nhost = "-x"', "is no host"),
        ('[hosts.a]\nhost = "x"\nport = 0', "is no port"),
        ('[hosts.a]\nhost = "x"\nport = true', "is no port"),
        ('[hosts.a]\nhost = "x"\nssh_opts = "-v"', "no list of words"),
        ('[hosts.a]\nhost = "x"\ntoken_file = "t"', "is no path"),
        ('[hosts.a]\nhost = "x"\ndefault = 1', "neither true nor false"),
        ('[hosts.a]\nhost = "x"\nkey = 1', "has no setting key"),
        ('[hosts.a]\nhost = "x"\n[hosts.b]\nhost = "y"', "none of the hosts is the default"),
    ],
)
def test_settings_that_are_wrong(environ: dict[str, str], content: str, why: str) -> None:
    _settings(environ, content)
    with pytest.raises(RemoteError) as caught:
        config.chosen(None, environ)
    assert caught.value.code == USAGE
    assert why in caught.value.what


@pytest.mark.parametrize("name, value", [("CLAUDE_REMOTE_PORT", "x"), ("CLAUDE_REMOTE_SSH_OPTS", "'")])
def test_variables_that_are_wrong(environ: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(RemoteError) as caught:
        config.chosen("h", {**environ, name: value})
    assert (caught.value.code, name in caught.value.what) == (USAGE, True)


# Sockets


def test_a_socket_s_path_is_short_enough_also_for_ssh(tmp_path: Path) -> None:
    """macOS takes 103 bytes, and ssh binds a name that is 17 longer before it has the right one."""
    for length in (1, 30, 60, 200):
        for base in (tmp_path, Path("/tmp") / f"crt{'x' * 20}{os.getpid()}"):
            base.mkdir(exist_ok=True)
            try:
                files = runtime.Files(config.Target("h" * length), {"XDG_RUNTIME_DIR": str(base)})
                assert len(files.control) + 17 <= 103
                assert len(files.http) + 17 <= 103
            finally:
                if base != tmp_path:
                    subprocess.run(["rm", "-rf", base], check=True)


def test_what_leads_elsewhere_is_another_connection(tmp_path: Path) -> None:
    where = {"XDG_RUNTIME_DIR": "/tmp/crt-short"}
    Path("/tmp/crt-short").mkdir(exist_ok=True)
    try:
        targets = [
            config.Target("a"),
            config.Target("a", 3001),
            config.Target("a_3001"),
            config.Target("a", ssh_opts=["-p", "1"]),
            config.Target("a", token_file="/t"),
            config.Target("b/../a"),
        ]
        paths = [runtime.Files(each, where).control for each in targets]
        assert len({*paths, runtime.Files(config.Target("b"), where).control}) == len(targets) + 1
        assert {os.path.dirname(path) for path in paths} == {"/tmp/crt-short/claude-remote"}
    finally:
        subprocess.run(["rm", "-rf", "/tmp/crt-short"], check=True)


# HTTP


def _answered(content: bytes) -> exchange.Answer:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.2)
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        return exchange.exchange(ours, b"GET / HTTP/1.0\r\n\r\n")


def test_an_answer() -> None:
    found = _answered(b"HTTP/1.1 202 ACCEPTED\r\nLocation: /x\r\nContent-Length: 2\r\n\r\nok")
    assert (found.status, found.headers["location"], found.body) == (202, "/x", b"ok")


@pytest.mark.parametrize(
    "content, error",
    [
        (b"", UnansweredError),
        (b"SSH-2.0-OpenSSH\r\n", RemoteError),
        (b"HTTP/1.1 two\r\n\r\n", RemoteError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", LostError),
        (b"HTTP/1.1 200 OK\r\nContent-", LostError),
    ],
)
def test_an_answer_that_is_none(content: bytes, error: type[RemoteError]) -> None:
    with pytest.raises(error) as caught:
        _answered(content)
    assert type(caught.value) is error


def test_an_answer_that_does_not_come() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.05)
        with pytest.raises(LostError, match="in time"):
            exchange.exchange(ours, b"x")


@pytest.mark.parametrize("path, value", [("/a b", "x"), ("/a\r\nX: y", "x"), ("/a", "x\r\nY: z"), ("/é", "x")])
def test_a_request_is_what_it_says(path: str, value: str) -> None:
    with pytest.raises(ValueError, match="none"):
        exchange.request("GET", path, {"A": value})


# Which sandbox

VIEWS: list[manager.Sandbox] = [
    {"name": "one", "id": "ab12"},
    {"name": "two", "id": "ab34"},
    {"name": "ab12", "id": "cd00"},
    {"name": "x/../y", "id": "ee00"},
    {"name": "broken"},
]


@pytest.mark.parametrize(
    "ref, name", [("one", "one"), ("ab34", "two"), ("ab3", "two"), ("ab12", "ab12"), ("c", "ab12")]
)
def test_matching(ref: str, name: str) -> None:
    assert manager.matching(VIEWS, ref, "h")["name"] == name


@pytest.mark.parametrize("ref, code", [("ab", AMBIGUOUS), ("on", NOT_FOUND), ("", NOT_FOUND), ("ee", 1)])
def test_what_does_not_match(ref: str, code: int) -> None:
    with pytest.raises(RemoteError) as caught:
        manager.matching(VIEWS, ref, "h")
    assert caught.value.code == code


@pytest.mark.parametrize(
    "theirs, differs",
    [("0.1.0", False), ("0.1.7", False), ("0.2.0", True), ("1.1", True), ("0+clone", False), ("", False)],
)
def test_versions(theirs: str, differs: bool) -> None:
    assert manager._differ(theirs, "0.1.3") is differs


# What is typed


def test_exec_passes_words_on() -> None:
    assert arguments.parse(["exec", "one", "--", "git", "checkout", "--", "-x"]).words == [
        "git",
        "checkout",
        "--",
        "-x",
    ]
    assert arguments.parse(["--host", "h", "exec", "one", "--", "--help"]).words == ["--help"]


@pytest.mark.parametrize("words", [["exec", "one", "--"], ["exec", "one", "ls", "--", "x"]])
def test_exec_that_is_unclear(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments.parse(words)
    assert caught.value.code == USAGE
    assert "exec: " in capsys.readouterr().err


def test_a_host_may_stand_before_and_after() -> None:
    assert arguments.parse(["--host", "h", "list"]).host == "h"
    assert arguments.parse(["list", "--host", "h"]).host == "h"
    assert arguments.parse(["list"]).host is None


def test_every_command_teaches_by_examples_that_are_right() -> None:
    import shlex

    made = arguments.parser()
    [commands] = [each for each in made._actions if isinstance(each, argparse._SubParsersAction)]
    assert set(commands.choices) == set(__import__("cli.claude_remote.__main__", fromlist=["x"])._COMMANDS)
    for name, command in commands.choices.items():
        assert command.epilog is not None
        lines = command.epilog.splitlines()[1:]
        assert lines, name
        for line in lines:
            words = shlex.split(line, comments=True)
            words = words[words.index("claude-remote") + 1 :]
            for end in (">", "|"):
                words = words[: words.index(end)] if end in words else words
            assert arguments.parse(words).command == name


@pytest.mark.parametrize(
    "word, mount",
    [
        ("/a", {"source": "/a", "target": "/a", "mode": "ro"}),
        ("/a:rw", {"source": "/a", "target": "/a", "mode": "rw"}),
        ("/a:/b:ro", {"source": "/a", "target": "/b", "mode": "ro"}),
    ],
)
def test_mount(word: str, mount: dict[str, str]) -> None:
    assert changing._mount(word) == mount


@pytest.mark.parametrize("word", ["a", "/a:/b:/c", "/a:/b:/c:rw", ""])
def test_a_mount_that_is_none(word: str) -> None:
    with pytest.raises(RemoteError):
        changing._mount(word)


# What Unison says


def test_conflicts_are_named_once_and_when_they_are_settled(capsys: pytest.CaptureFixture[str]) -> None:
    report = watching.Report("srv", "/here")
    rounds = [["a b (c)", "x"], ["a b (c)", "x"], ["x"]]
    for each in rounds:
        report.line("Looking for changes")
        for path in each:
            report.line(f"  skipped: {path} (contents changed on both sides)")
        report.line("Sleeping for 2 seconds...")
    said = capsys.readouterr().err
    assert said.count("CONFLICT, kept on both sides: a b (c) (contents changed") == 1
    assert said.count("settled: a b (c)") == 1
    assert list(report.conflicts) == ["x"]


def test_acts_are_told_with_their_direction(capsys: pytest.CaptureFixture[str]) -> None:
    report = watching.Report("srv", "/here")
    report.line("[BGN] Copying a from b from /here to //vm//there")
    report.line("[BGN] Updating file c from //vm//there to /here")
    report.line("[BGN] Deleting d from /here")
    report.line("[BGN] Deleting e from //vm//there")
    assert capsys.readouterr().out.splitlines() == [
        "→ srv  new: a from b",
        "← srv  changed: c",
        "← srv  deleted: d",
        "→ srv  deleted: e",
    ]


# What it is made of


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_it_imports_the_standard_library_and_itself(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            names = [] if node.level else [node.module or ""]
        assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "shtab"}


def test_a_list_imports_nothing_that_takes_long() -> None:
    """What a warm `list` loads, by name: each of these would take more than its share of the time."""
    script = "import sys, claude_remote.__main__, claude_remote.looking; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT / "cli"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    slow = {"argparse", "asyncio", "dataclasses", "email", "hashlib", "http.client", "inspect", "logging", "pathlib"}
    slow |= {"shlex", "shutil", "ssl", "subprocess", "tempfile", "threading", "tomllib", "typing", "urllib.parse"}
    assert not slow & set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "claude_remote", "completion", shell],
        env={"PYTHONPATH": str(ROOT / "cli"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        assert done.stderr == "claude-remote: This needs shtab. Install it: pip install shtab\n"
        pytest.skip("shtab is not installed")
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    assert "screenshot" in done.stdout
