# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""sync and watch, with the real rsync and the real Unison on both ends of a real connection."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.manager.served import Served
from tests.remote.server import Laptop, Server
from tests.support.account import Account

ODD = "-o; $(touch x) '\" \n é"


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def there(account: Account) -> Iterator[Path]:
    """A directory of the account's on the server."""
    path = account.root / "there"
    path.mkdir()
    account.own(path)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def folder(here: Laptop) -> Path:
    """A directory of the laptop's."""
    path = here.home / "shop"
    path.mkdir()
    (path / "a").write_text("a")
    return path


def test_sync(here: Laptop, folder: Path, there: Path, account: Account, served: Served) -> None:
    (folder / ODD).write_text("odd")
    (folder / "sub").mkdir()
    (folder / "sub/b").write_text("b")
    (there / "kept").write_text("theirs")
    done = here.run("sync", "shop", str(there))
    assert (done.returncode, done.stderr) == (0, "")
    assert _files(there) == {"a": "a", ODD: "odd", "sub/b": "b", "kept": "theirs"}
    assert (there / "a").stat().st_uid == account.uid


def test_sync_to_a_directory_of_an_odd_name(here: Laptop, there: Path, served: Served) -> None:
    weird = here.home / "-n 'x' $HOME"
    weird.mkdir()
    (weird / "f").write_text("f")
    target = there / "new/-x 'y' $(id)"
    done = here.run("sync", "--", "-n 'x' $HOME", str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert _files(target) == {"f": "f"}


def test_sync_leaves_out_what_git_does(here: Laptop, folder: Path, there: Path, served: Served) -> None:
    (folder / ".gitignore").write_text("*.o\nnode_modules/\n")
    (folder / "x.o").write_text("")
    (folder / "node_modules").mkdir()
    (folder / "node_modules/y").write_text("")
    assert here.run("sync", "shop", str(there), "--gitignore").returncode == 0
    assert set(_files(there)) == {"a", ".gitignore"}


def test_sync_deletes_only_when_told_twice(here: Laptop, folder: Path, there: Path, served: Served) -> None:
    (there / "theirs").write_text("x")
    shown = here.run("sync", "shop", str(there), "--delete", "--dry-run")
    assert shown.returncode == 0
    assert "theirs" in shown.stdout
    unanswered = here.run("sync", "shop", str(there), "--delete")
    assert (unanswered.returncode, "Add --yes" in unanswered.stderr) == (2, True)
    terminal = here.spawn("sync", "shop", str(there), "--delete")
    terminal.expect_exact("theirs")
    terminal.expect_exact("Delete them? [y/N]")
    terminal.send("n\r")
    terminal.expect_exact("Nothing was done.")
    terminal.expect(pexpect.EOF)
    assert set(_files(there)) == {"theirs"}
    assert here.run("sync", "shop", str(there), "--delete", "--yes").returncode == 0
    assert set(_files(there)) == {"a"}


def test_sync_knows_the_project_of_the_sandbox(
    here: Laptop, as_root: Laptop, folder: Path, account: Account, served: Served
) -> None:
    """Also through root it is the account that writes: root's files could not be changed inside."""
    project = served.project("shop")
    served.make("shop", project_dir=str(project))
    assert here.run("sync", "shop").returncode == 0
    assert _files(project) == {"a": "a"}
    (as_root.home / "shop").mkdir()
    (as_root.home / "shop/b").write_text("b")
    assert as_root.run("sync", "shop").returncode == 0
    assert (project / "b").stat().st_uid == account.uid
    # An agent's link leads nobody to where its account may not write.
    (project / "etc").symlink_to("/root")
    refused = as_root.run("sync", "shop", f"{project}/etc/claude-remote-test")
    assert refused.returncode == 1
    assert not Path("/root/claude-remote-test").exists()


def test_sync_goes_home_otherwise(here: Laptop, folder: Path, account: Account, served: Served) -> None:
    try:
        assert here.run("sync", "shop").returncode == 0
        assert _files(account.home / "shop") == {"a": "a"}
    finally:
        subprocess.run(["rm", "-rf", account.home / "shop"], check=True)


def test_create_brings_the_project(here: Laptop, folder: Path, account: Account, served: Served) -> None:
    try:
        grants = [word for name in ("claude", "git", "ssh", "gh", "display") for word in ("--no-grant", name)]
        words = ["create", "shop", "bubblewrap", "~/proj", "--sync", "shop", "--user", account.name, "--agent", "shell"]
        made = here.run(*words, *grants)
        assert made.returncode == 0, made.stderr
        assert _files(account.home / "proj") == {"a": "a"}
        assert served.call("GET", "/api/sandboxes/shop").json()["project_dir"] == str(account.home / "proj")
    finally:
        subprocess.run(["rm", "-rf", account.home / "proj"], check=True)


def test_without_rsync_or_unison(here: Laptop, folder: Path, there: Path, served: Served, tmp_path: Path) -> None:
    """One line, with what mends it."""
    for name in ("ssh", "python3"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    for word in ("rsync", "unison"):
        command = "sync" if word == "rsync" else "watch"
        missing = here.run(command, "shop", str(there), environ={"PATH": str(tmp_path)})
        assert missing.returncode == 1
        assert missing.stderr == (
            f"claude-remote: There is no {word} here. apt-get install {word}, or brew install {word}.\n"
        )


def test_watch_never_loses_work(here: Laptop, folder: Path, there: Path, account: Account, served: Served) -> None:
    for name in ("both", "cut-here", "cut-there", "mine", "theirs", "gone"):
        (folder / name).write_text("as it was")
    assert here.run("watch", "shop", str(there), "--once").returncode == 0
    assert _files(there) == _files(folder)

    (folder / "both").write_text("from here")
    (there / "both").write_text("from there")
    (folder / "mine").write_text("edited here")
    (there / "theirs").write_text("edited there")
    (folder / "cut-here").unlink()
    (there / "cut-here").write_text("edited while it was deleted")
    (there / "cut-there").unlink()
    (folder / "cut-there").write_text("edited while it was deleted")
    (folder / "gone").unlink()
    (there / "new\nCONFLICT \x1b[31m").write_text("odd")
    account.own(there)
    done = here.run("watch", "shop", str(there), "--once")
    assert done.returncode == 1
    named = {line.split(": ", 2)[2].split(" (")[0] for line in done.stderr.splitlines() if "CONFLICT, kept" in line}
    assert named == {"both", "cut-here", "cut-there"}
    assert "\x1b" not in done.stderr + done.stdout

    ours, others = _files(folder), _files(there)
    assert (ours["both"], others["both"]) == ("from here", "from there")
    assert ours["mine"] == others["mine"] == "edited here"
    assert ours["theirs"] == others["theirs"] == "edited there"
    assert "cut-here" not in ours
    assert others["cut-here"] == ours["cut-there"] == "edited while it was deleted"
    assert "cut-there" not in others
    assert "gone" not in others
    assert ours["new\nCONFLICT \x1b[31m"] == "odd"

    # Settling keeps the other version, too.
    assert here.run("watch", "shop", str(there), "--settle", "both", "--keep", "remote").returncode == 0
    ours, others = _files(folder), _files(there)
    assert ours["both"] == others["both"] == "from there"
    assert "from here" in [*ours.values(), *others.values()]


def test_watch_goes_on(
    here: Laptop, folder: Path, there: Path, account: Account, served: Served, server: Server
) -> None:
    """Edits of both sides arrive as they are made, also after the connection was lost; Ctrl-C leaves no process."""
    watcher = here.spawn("watch", "shop", str(there))
    watcher.expect("Both sides are the same")
    (folder / "here").write_text("1")
    (there / "there").write_text("2")
    account.own(there)
    assert _until(lambda: "here" in _files(there) and "there" in _files(folder))
    server.cut()
    watcher.expect("The connection was lost. Trying again")
    (folder / "later").write_text("3")
    assert _until(lambda: "later" in _files(there), 40)
    (folder / "a").write_text("one")
    (there / "a").write_text("two")
    watcher.expect(r"CONFLICT, kept on both sides: a \(")
    watcher.sendintr()
    watcher.expect(pexpect.EOF)
    watcher.wait()
    assert watcher.exitstatus == 0
    assert _until(lambda: not [pid for pid in account.processes() if "unison" in _name(pid)])
    assert (folder / "a").read_text() == "one"


def test_watch_can_be_killed(here: Laptop, folder: Path, there: Path, served: Served) -> None:
    """What is left behind does not keep the next one from working."""
    watcher = subprocess.Popen(
        here.argv("watch", "shop", str(there)), env=here.environ, cwd=here.home, stderr=subprocess.PIPE, text=True
    )
    assert watcher.stderr is not None
    while "Both sides" not in watcher.stderr.readline():
        pass
    watcher.send_signal(signal.SIGKILL)
    watcher.wait()
    watcher.stderr.close()
    (folder / "next").write_text("x")
    done = here.run("watch", "shop", str(there), "--once")
    assert done.returncode == 0, done.stderr
    assert "next" in _files(there)


def test_an_emptied_side_is_no_wish_to_delete_all(here: Laptop, folder: Path, there: Path, served: Served) -> None:
    (folder / "b").write_text("b")
    assert here.run("watch", "shop", str(there), "--once").returncode == 0
    for path in folder.iterdir():
        path.unlink()
    refused = here.run("watch", "shop", str(there), "--once")
    assert refused.returncode == 1
    assert "completely emptied" in refused.stderr
    assert "are the same" not in refused.stderr
    assert set(_files(there)) == {"a", "b"}


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False
