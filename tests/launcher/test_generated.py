"""The shells' completion and the man pages: made from the parsers, whole, and of use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher.person import CLONE

OPTIONS = (
    *("--shell", "--enter", "--stop", "--new", "--no-network", "--gh-token", "--backend", "--grant", "--no-grant"),
    *("--mount", "--version", "--help"),
)
COMMANDS = ("list", "doctor", "grants", "exec", "resume")
NAMES = ("claude-sandbox", "claude-sandbox-container", "claude-sandbox-vm")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    subprocess.run([sys.executable, CLONE / "cli/generate.py", folder], check=True, timeout=60)
    return folder


def completed(made: Path, folder: Path, *words: str) -> set[str]:
    """What a bash with the file offers for the last of the words."""
    script = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
compopt() { :; }
way=$(complete -p "$1"); way=${way##*-F }; "${way%% *}" "$1" "${!#}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    file = made / "completions/claude-sandbox.bash"
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", file, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("name", NAMES)
def test_bash_completes_options(made: Path, tmp_path: Path, name: str) -> None:
    assert set(OPTIONS) <= completed(made, tmp_path, name, "--")
    assert completed(made, tmp_path, name, "--no-g") == {"--no-grant"}


def test_bash_completes_commands_and_directories(made: Path, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "file").touch()
    assert {*COMMANDS, "lib"} <= completed(made, tmp_path, "claude-sandbox", "")
    assert completed(made, tmp_path, "claude-sandbox", "li") == {"list", "lib"}
    assert "file" not in completed(made, tmp_path, "claude-sandbox", "")


def test_bash_completes_what_an_option_takes(made: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert completed(made, tmp_path, "claude-sandbox", "--backend", "") == {"bubblewrap", "container", "vm"}
    assert completed(made, tmp_path, "claude-sandbox", "--grant", "ss") == {"ssh", "ssh_agent"}
    assert completed(made, tmp_path, "claude-sandbox", "--shell", "--no-grant", "wa") == {"wayland"}
    assert completed(made, tmp_path, "claude-sandbox", "--mount", "da") == {"data"}


def test_bash_completes_below_a_command(made: Path, tmp_path: Path) -> None:
    assert {"--json", "--help"} <= completed(made, tmp_path, "claude-sandbox", "list", "--")
    assert "--shell" not in completed(made, tmp_path, "claude-sandbox", "list", "--")
    assert "--state-dir" in completed(made, tmp_path, "claude-sandbox", "exec", "--")
    assert completed(made, tmp_path, "claude-sandbox", "grants", "--backend", "v") == {"vm"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_all_of_it(made: Path, shell: str) -> None:
    content = (made / f"completions/claude-sandbox.{shell}").read_text()
    for option in OPTIONS:
        assert (f"-l {option[2:]} " if shell == "fish" else option) in content, option
    for word in (*COMMANDS, *NAMES, "ssh_agent", "bubblewrap"):
        assert word in content, word
    if shutil.which(shell):
        subprocess.run([shell, "-n", made / f"completions/claude-sandbox.{shell}"], check=True, timeout=30)


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
@pytest.mark.parametrize(
    "typed, offered",
    [
        ("--backend ", {"bubblewrap", "container", "vm"}),
        ("--grant ss", {"ssh", "ssh_agent"}),
        ("", {*COMMANDS, "lib/"}),
        ("grants --no-g", {"--no-grant"}),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_fish_completes(made: Path, tmp_path: Path, name: str, typed: str, offered: set[str]) -> None:
    (tmp_path / "lib").mkdir()
    for each in NAMES:
        # It completes what it can find.
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / each).touch(mode=0o755)
    script = f"source {made}/completions/claude-sandbox.fish; complete -C '{name} {typed}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert offered <= {line.split("\t")[0] for line in done.stdout.splitlines()}, done


def page(made: Path, name: str) -> str:
    """As man shows it."""
    groff = ["groff", "-man", "-Kutf8", "-Tutf8", "-P-cbou", "-ww", "-rLL=120n", str(made / f"man/{name}.1")]
    done = subprocess.run(groff, capture_output=True, text=True, check=True, timeout=30, cwd=made)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff to read them with")
def test_the_man_pages(made: Path) -> None:
    shown = page(made, "claude-sandbox")
    for word in (*(option for option in OPTIONS if option != "--help"), *COMMANDS, "EXAMPLES", "SRC[:DST][:rw]"):
        assert word in shown, word
    # Each on a line of its own.
    assert "claude-sandbox --no-network --no-grant ssh\n" in shown
    for command in COMMANDS:
        assert f"claude-sandbox {command}" in page(made, f"claude-sandbox-{command}")
    for alias in NAMES[1:]:
        assert (made / f"man/{alias}.1").read_text() == ".so man1/claude-sandbox.1\n"


def test_nothing_of_the_day_or_the_machine(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes them from the same sources makes the same."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    for folder in ("a", "b"):
        subprocess.run([sys.executable, CLONE / "cli/generate.py", tmp_path / folder], check=True, timeout=60)
    assert subprocess.run(["diff", "-r", tmp_path / "a", tmp_path / "b"], check=False).returncode == 0
    assert r'"1970\-01\-01"' in (tmp_path / "a/man/claude-sandbox.1").read_text()
    assert str(CLONE) not in (tmp_path / "a/completions/claude-sandbox.bash").read_text()
