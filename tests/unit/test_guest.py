"""What a virtual machine is told: as text and as an archive, whatever the names in it are."""

from __future__ import annotations

import dataclasses
import io
import shlex
import subprocess
import tarfile

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import guest

ANN = guest.Account(1000, 1001, "/home/ann")
PROJECT = '/home/ann/it\'s, "odd" $(touch x) \\ ü'
TASK = guest.Task(  # noqa: S604 - shell is the name of a program
    name="box",
    owner=ANN,
    places=(
        guest.Place("/tools/0", "/usr", True),
        guest.Place("/tools/1", guest.RESOLVER, False),
        guest.Place("/work/2", PROJECT, True),
        guest.Place("/work/3", f"{PROJECT}/deep/a file", False),
    ),
    files={"/etc/passwd": b"ann\n", "/home/ann/.claude.json": b"\0\xff"},
    links=(("/bin", "usr/bin"),),
    argv=("/usr/bin/agent", "--flag", "; rm -rf /", "line\nline"),
    env={"PATH": "/usr/bin", "TOKEN": "s'ecret $HOME"},
    cwd=PROJECT,
    shell="/usr/bin/bash",
    path="/usr/bin",
    network=True,
    setpriv="/usr/bin/setpriv",
    guest_agent="/usr/sbin/qemu-ga",
)


def lines(**changes: object) -> list[str]:
    """The script's lines; those of the table of mounts without the command that writes it."""
    text = guest.script(dataclasses.replace(TASK, **changes)).decode()  # type: ignore[arg-type]
    return [line.removeprefix("printf '%s\\n' '") for line in text.splitlines()]


@pytest.mark.parametrize("changes", [{}, {"network": False}, {"screen": "/usr/bin/Xorg"}])
def test_a_shell_takes_the_script(changes: dict[str, object]) -> None:
    script = guest.script(dataclasses.replace(TASK, **changes))  # type: ignore[arg-type]
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_agent_gets_its_words_and_variables_as_they_are() -> None:
    script = guest.script(TASK).decode()
    start = script.index("/bin/busybox chroot . ")
    words = shlex.split(script[start : script.index(" <&6", start)])
    assert words[3:11] == [
        "/usr/bin/setpriv",
        "--reuid=1000",
        "--regid=1001",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--",
    ]
    assert words[15:] == [PROJECT, "/usr/bin", TASK.argv[0], "PATH=/usr/bin", "TOKEN=s'ecret $HOME", *TASK.argv]


def test_outer_mounts_come_before_inner_ones() -> None:
    tables = [line for line in guest.script(TASK).decode().split("printf")[1:] if ">/fstab" in line]
    order = "".join(tables)
    targets = ["/new/home tmpfs", "/new/home/ann tmpfs", "/work/2 ", "/work/3 "]
    assert [order.index(target) for target in targets] == sorted(order.index(target) for target in targets)
    assert [sum(target in table for table in tables) for target in targets] == [1, 1, 1, 1]


def test_names_are_escaped_for_the_table_of_mounts() -> None:
    table = next(line for line in lines() if line.startswith("/work/3 "))
    assert table.removesuffix("' >/fstab").count(" ") == 5
    assert "\\040" in table
    assert "\\134" in table


def test_a_file_is_mounted_on_a_file() -> None:
    script = guest.script(TASK).decode()
    assert f"[ -e {shlex.quote('/new' + PROJECT + '/deep/a file')} ] || : >" in script


def test_the_resolver_is_qemus_with_a_network_and_the_hosts_without() -> None:
    assert not [line for line in lines() if line.startswith("/tools/1 ")]
    assert [line for line in lines(network=False) if line.startswith("/tools/1 ")]
    assert not [line for line in lines(network=False) if "eth0" in line]


def test_what_the_user_mounts_goes_before_our_own() -> None:
    table = lines(places=(guest.Place("/work/0", "/tmp", True),))
    assert [line.split()[0] for line in table if " /new/tmp " in line and " 0 0" in line] == ["/work/0"]


def test_the_archive_holds_files_for_the_owner_alone() -> None:
    with tarfile.open(fileobj=io.BytesIO(guest.archive(TASK))) as tar:
        members = {member.name: member for member in tar}
        json = tar.extractfile("home/ann/.claude.json")
        assert json is not None
        assert json.read() == b"\0\xff"
    assert members["bin"].linkname == "usr/bin"
    passwd = members["etc/passwd"]
    assert (passwd.mode, passwd.uid, passwd.gid, passwd.uname) == (0o600, 1000, 1001, "")
    assert "etc/resolv.conf" in members


def test_a_command_beside_the_agent_says_where_its_directory_is_lost() -> None:
    argv = guest.beside(ANN, "/bin/bash", ["echo", "x"], {"A": "b c"}, "/nowhere", "token")
    script = argv[argv.index("-c") + 1]
    done = subprocess.run(["sh", "-c", script, *argv[argv.index("-c") + 2 :]], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (guest.LOST, b"", b"token")


@pytest.mark.parametrize("program", ["echo", "/tmp/none/a=b"])
def test_a_command_beside_the_agent_runs_with_its_variables_alone(program: str) -> None:
    argv = guest.beside(ANN, "/bin/bash", [program, "x y"], {"A": "b c", "PATH": "/usr/bin:/bin"}, "/", "token")
    script = argv[argv.index("-c") + 1]
    done = subprocess.run(["bash", "-c", script, *argv[argv.index("-c") + 2 :]], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == ((0, b"x y\n") if program == "echo" else (127, b""))


@pytest.mark.parametrize(
    "content,expected",
    [
        (b"", guest.Report()),
        (b"started 12", guest.Report()),
        (b"started 12\n", guest.Report(pid=12)),
        (b"started 12\r\nexit 0\r\n", guest.Report(pid=12, exit_code=0)),
        (b"started 12\nstarted 13\nexit 3\nexit 4\n", guest.Report(pid=12, exit_code=3)),
        (b"exit 256\nexit -1\nexit x\nexit \n", guest.Report()),
        (b"started 99999999999999999999\n", guest.Report()),
        ("started ٣\n".encode(), guest.Report()),
        (b"\xff\0garbage\nmissing\n", guest.Report(missing=True)),
        (b"failed \x1b[2Jno\n", guest.Report(failure="?[2Jno")),
        (b"failed " + b"x" * 5000 + b"\n", guest.Report(failure="x" * 200)),
    ],
)
def test_a_report_means_what_it_can_mean(content: bytes, expected: guest.Report) -> None:
    assert guest.report(content) == expected
