"""claude-sandbox between pipes: what programs and scripts use it for, and what of its surroundings gets in."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.launcher.person import Person, python, soon
from tests.support.claude_home import DUMMY_KEY
from tests.support.signals import mask


def test_claude_answers_what_comes_by_stdin(person: Person) -> None:
    done = person.run("--", "-p", stdin="SAY: hello from outside")
    assert (done.returncode, done.stdout) == (0, "hello from outside\n"), done
    assert person.records() == []


def test_claude_works_in_the_project_and_knows_where_it_is(person: Person) -> None:
    done = person.run("--", "-p", "--dangerously-skip-permissions", "RUN: pwd > where; echo $CLAUDE_SANDBOX")
    assert done.returncode == 0, done
    assert (person.project / "where").read_text() == f"{person.project}\n"
    assert any("inside a sandbox" in text for text in person.api.system_prompts())


def test_another_directory_is_the_project(person: Person) -> None:
    other = person.project / "list"
    other.mkdir()
    person.account.own(other)
    # A command has that name, too.
    done = person.run("--shell", "./list", "--", "-c", "pwd; touch here")
    assert done.stdout == f"{other}\n", done
    assert (other / "here").exists()


@pytest.mark.parametrize(
    "script, code",
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -INT $$", 130),
        ("exec /no/such/program", 127),
        ("echo > file; exec ./file", 126),
    ],
)
def test_its_exit_code_is_ours(person: Person, script: str, code: int) -> None:
    done = person.run("--shell", "--no-grant", "display", "--", "-c", script)
    assert done.returncode == code, done
    assert person.records() == []


def test_the_streams_are_its_own(person: Person) -> None:
    """Byte for byte, each in its place, and nothing of ours between."""
    script = "cat; printf '\\001\\r\\n\\377' ; echo wrong >&2"
    done = subprocess.run(
        person.argv("--shell", "--no-grant", "display", "--", "-c", script),
        input=b"a\r\nb\0c",
        env=person.environ,
        cwd=person.project,
        capture_output=True,
        check=False,
        timeout=60,
        preexec_fn=person.become,
    )
    assert done.stdout == b"a\r\nb\0c\001\r\n\377"
    assert done.stderr == b"wrong\n"


def test_nothing_of_the_launcher_is_open_inside(person: Person) -> None:
    """Neither what it has opened, nor what it was started with."""
    secret = person.account.home / "secret"
    secret.write_text("do not read")
    person.account.own(secret)
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        done = subprocess.run(
            person.argv("--shell", "--no-grant", "display", "--", "-c", "ls /proc/self/fd /proc/1/fd | xargs"),
            env=person.environ,
            cwd=person.project,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            pass_fds=(file.fileno(),),
            preexec_fn=person.become,
        )
    own, init = done.stdout.split("/proc/self/fd:")[-1], done.stdout.split("/proc/self/fd:")[0]
    # ls has the folder itself open; the first process is bwrap, which is not to be looked into.
    assert own.split() == ["0", "1", "2", "3"], done
    assert "3" not in init.split(), done


def test_signals_are_as_a_program_expects_them(person: Person) -> None:
    """Python ignores some, and ignoring is passed on."""
    done = person.run("--shell", "--no-grant", "display", "--", "-c", "grep -E 'SigIgn|SigBlk' /proc/self/status")
    blocked, ignored = done.stdout.split()[1::2]
    assert [mask(blocked), mask(ignored)] == [0, 0], done


def test_nothing_of_the_environment_gets_in(person: Person) -> None:
    evil = {
        "LD_PRELOAD_X": "a",
        "BASH_ENV": "/tmp/x",
        "NODE_OPTIONS": "--x",
        "MY_TOKEN": "t",
        "DBUS_SESSION_BUS_ADDRESS": "u",
    }
    done = person.run("--shell", "--no-grant", "display", "--", "-c", "env", env=evil)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert not names & set(evil), names
    assert names <= {
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TERM", "COLORTERM", "XDG_RUNTIME_DIR", "CLAUDE_SANDBOX"),
        *("IS_SANDBOX", "PWD", "SHLVL", "_", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
    }


def test_locale_as_the_grant_table_says(person: Person) -> None:
    words = ("--shell", "--no-grant", "display", "--", "-c", "echo $LANG $LC_TIME $TZ")
    found = {"LANG": "de_DE.UTF-8", "LC_TIME": "C", "TZ": "Asia/Tokyo"}
    assert person.run(*words, env=found).stdout == "de_DE.UTF-8 C Asia/Tokyo\n"
    assert person.run("--no-grant", "locale", *words, env=found).stdout == "C.UTF-8\n"


def test_secrets_are_seen_nowhere(person: Person) -> None:
    """Not in what ps shows, nor in a record; the agent has them."""
    script = "env | grep -c -e KEY -e GH_TOKEN; touch up; while [ -e up ]; do sleep 0.05; done"
    token = "ghp_made_up_0123456789"
    process = subprocess.Popen(
        person.argv("--shell", "--gh-token", "--no-grant", "display", "--", "-c", script),
        env={**person.environ, "GH_TOKEN": token},
        cwd=person.project,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=person.become,  # noqa: PLW1509 - it takes no lock
    )
    assert soon((person.project / "up").exists, 20)
    soon(lambda: list(person.registry.glob("*/instance.json")))
    lines = "\n".join(person.processes())
    assert DUMMY_KEY not in lines
    assert token not in lines
    for path in person.registry.rglob("*"):
        if path.is_file() and path.name != "secrets.json":
            content = path.read_bytes()
            assert DUMMY_KEY.encode() not in content, path
            assert token.encode() not in content, path
    (stored,) = person.registry.glob("*/data/secrets.json")
    assert stored.stat().st_mode & 0o777 == 0o600
    (person.project / "up").unlink()
    out, _err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("2\n", 0)


def test_a_gh_token_comes_from_gh(person: Person) -> None:
    """By its own command, where no variable has it."""
    folder = person.project / "bin"
    folder.mkdir()
    gh = folder / "gh"
    gh.write_text('#!/bin/sh\n[ "$*" = "auth token" ] && echo gho_from_gh\n')
    gh.chmod(0o755)
    person.account.own(folder)
    path = {"PATH": f"{folder}:{person.environ['PATH']}"}
    words = ("--shell", "--gh-token", "--no-grant", "display", "--", "-c", "echo $GH_TOKEN")
    assert person.run(*words, env=path).stdout == "gho_from_gh\n"
    gh.write_text("#!/bin/sh\nexit 1\n")
    done = person.run(*words, env=path)
    assert (done.returncode, done.stderr) == (
        1,
        "claude-sandbox: --gh-token: gh has no token.\n  Log in with: gh auth login.\n",
    )


def test_mounts(person: Person) -> None:
    data = person.account.root / f"data-{person.project.name}"
    data.mkdir()
    (data / "file").write_text("content")
    person.account.own(data)
    show = "cat /there/file; touch /there/new 2>/dev/null && echo written; true"
    words = ("--shell", "--no-grant", "display", "--mount")
    assert person.run(*words, f"{data}:/there", "--", "-c", show).stdout == "content"
    assert person.run(*words, f"{data}:/there:rw", "--", "-c", show).stdout == "contentwritten\n"
    done = person.run(*words, f"{data}:/a:/b", "--", "-c", show)
    assert done.returncode == 1
    assert "is not SRC[:DST][:rw]" in done.stderr


def test_without_the_network(person: Person) -> None:
    words = ("--shell", "--no-grant", "display")
    script = ("--", "-c", "ls /sys/class/net 2>/dev/null; grep -c : /proc/net/dev")
    assert person.run("--no-network", *words, *script).stdout.strip().splitlines()[-1] == "1"


def test_killed_while_it_starts(person: Person) -> None:
    """At whatever moment that is: the next call takes away what was recorded, and what runs."""
    for step in range(12):
        process = subprocess.Popen(
            person.argv("--shell", "--", "-c", "sleep 600"),
            env=person.environ,
            cwd=person.project,
            stdin=subprocess.DEVNULL,
            preexec_fn=person.become,  # noqa: PLW1509 - it takes no lock
        )
        time.sleep(0.05 + step * 0.025)
        process.kill()
        process.wait()
        # Between bwrap's first two processes is a moment in which the second stays; the next call ends that one, too.
        soon(lambda: person.processes() == [], 1)
    done = person.run("--shell", "--no-grant", "display", "--", "-c", "echo fine")
    assert (done.returncode, done.stdout) == (0, "fine\n"), done
    assert person.records() == []
    assert person.processes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_while_it_starts(person: Person, number: int) -> None:
    for step in range(8):
        process = subprocess.Popen(
            person.argv("--shell", "--", "-c", "sleep 600"),
            env=person.environ,
            cwd=person.project,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=person.become,  # noqa: PLW1509 - it takes no lock
        )
        time.sleep(0.15 + step * 0.03)
        process.send_signal(number)
        _out, err = process.communicate(timeout=20)
        # Before it listens, the signal itself ends it.
        assert process.returncode in (-number, 128 + number), (step, err)
        assert "Traceback" not in err
        assert soon(lambda: person.processes() == [], 5), (step, person.processes())
        assert process.returncode == -number or person.records() == []


def test_it_ends_with_whoever_waits_for_it(person: Person) -> None:
    """A launcher that is killed takes all with it: the agent, what that has started, and the X server."""
    process = subprocess.Popen(
        person.argv("--shell", "--", "-c", "setsid sleep 600 & touch up; sleep 600"),
        env=person.environ,
        cwd=person.project,
        stdin=subprocess.DEVNULL,
        preexec_fn=person.become,  # noqa: PLW1509 - it takes no lock
    )
    assert soon((person.project / "up").exists, 20)
    soon(lambda: list(person.registry.glob("*/instance.json")))
    assert any("Xvfb" in line for line in person.processes())
    process.kill()
    process.wait()
    assert soon(lambda: person.processes() == [], 5), person.processes()
    assert person.sandboxes()[0]["status"] == "dead"
    person.run("--stop")
    assert person.records() == []


@pytest.mark.parametrize(
    "words, code, said",
    [
        (("/no/such/place",), 1, "There is no directory '/no/such/place'."),
        (("--grant", "everything"), 1, "There is no grant 'everything'."),
        (("--backend", "chroot"), 2, "invalid choice: 'chroot'"),
        (("--enter",), 1, "No sandbox runs on"),
        (("--shell", "--stop"), 2, "not allowed with argument"),
        (("--she",), 2, "unrecognized arguments: --she"),
        (("a", "b"), 2, "unrecognized arguments: b"),
        (("exec", "nobody", "--", "true"), 1, "There is no sandbox 'nobody'"),
        (("exec", "nobody"), 2, "give the command after --"),
        (("list", "--", "x"), 2, "nothing for -- to be passed on to"),
        (("--grant", "x11", "--grant", "display"), 1, "can be only one of them"),
        (("/",), 1, "is a directory of the system"),
        (("--mount", "/no/such/thing", "--shell", "--", "-c", "true"), 1, "/no/such/thing"),
    ],
)
def test_a_mistake_is_a_clear_line(person: Person, words: tuple[str, ...], code: int, said: str) -> None:
    done = person.run(*words)
    assert said in done.stderr, done
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert person.records() == []


def test_what_was_asked_for_by_name_and_is_not_there_is_told(person: Person) -> None:
    done = person.run("--shell", "--grant", "x11", "--", "-c", "echo on")
    assert done.stderr.startswith("claude-sandbox: x11 is not in the sandbox: $DISPLAY names no X display"), done
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_a_reader_that_has_seen_enough(person: Person) -> None:
    done = person.run(argv=["/bin/sh", "-c", f"{python()} -m claude_launcher --help | head -1; echo ${{PIPESTATUS}}"])
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("usage: claude-sandbox")


def test_root_is_told_whose_it_has_to_be(person: Person) -> None:
    done = subprocess.run(
        person.argv("--shell", "--", "-c", "true"),
        env={**person.environ, "HOME": "/root", "XDG_STATE_HOME": str(Path("/nowhere"))},
        cwd=person.project,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Only a bubblewrap sandbox of your own" in done.stderr
