"""bubblewrap's options as data: what is isolated, in which order, and what nobody sees in the process list."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import (
    agent,
    grants,
    host,
    seccomp,
    spec,
    toolchain,
)
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends import base, bubblewrap
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.grants import Bind

ANN = host.Account("ann", 1000, 1000, "/home/ann", "/bin/bash", (1000,))
TOOLS = toolchain.Toolchain("host", (Bind("/usr", "/usr"),), (("/bin", "usr/bin"),), "/usr/bin", "/usr/bin/bash")
SECRET = "sk-made-up-0123456789"
ARGV = ["/usr/bin/claude", "--flag", "--", "; rm"]
ARGUMENTS = {  # option → how many words follow; every option that is ever used
    "--unshare-user": 0,
    "--unshare-pid": 0,
    "--unshare-ipc": 0,
    "--unshare-uts": 0,
    "--unshare-cgroup-try": 0,
    "--unshare-net": 0,
    "--die-with-parent": 0,
    "--cap-drop": 1,
    "--hostname": 1,
    "--clearenv": 0,
    "--setenv": 2,
    "--proc": 1,
    "--dev": 1,
    "--perms": 1,
    "--tmpfs": 1,
    "--symlink": 2,
    "--ro-bind": 2,
    "--bind": 2,
    "--dev-bind": 2,
    "--file": 2,
    "--chdir": 1,
    "--remount-ro": 1,
    "--json-status-fd": 1,
    "--block-fd": 1,
    "--seccomp": 1,
}
Option = tuple[str, ...]


@pytest.fixture
def machine(tmp_path: Path) -> host.Host:
    """A host whose bwrap is a file of ours."""
    program = tmp_path / "bwrap"
    program.touch(0o755)
    return host.Host({"PATH": str(tmp_path)}, 1000)


def job(params: Mapping[str, Any] | None = None, **more: Any) -> base.Job:
    asked = spec.parse({"project_dir": "/srv/demo", **(params or {})})
    values: dict[str, Any] = {
        "name": "demo",
        "id": "0123456789ab",
        "record": "/var/lib/registry/sandboxes/demo",
        "spec": asked,
        "owner": ANN,
        "argv": tuple(ARGV),
        "toolchain": TOOLS,
        "binds": (*TOOLS.binds, Bind("/srv/demo", "/srv/demo", "rw")),
        "env": {"HOME": ANN.home, "ANTHROPIC_API_KEY": SECRET, "EMPTY": ""},
        "files": agent.files_inside(asked, ANN, "ann", False, {"ANTHROPIC_API_KEY": SECRET}),
        "folder": "/run/demo/launch",
    }
    return base.Job(**{**values, **more})


@dataclasses.dataclass(frozen=True)
class Made:
    """What is run for a job, and what it reads while it starts."""

    command: base.Command
    contents: Mapping[int, bytes]

    @property
    def words(self) -> list[str]:
        """The options as bwrap reads them from the descriptor that its argv names."""
        number = int(self.command.argv[self.command.argv.index("--args") + 1])
        *found, last = self.contents[number].decode().split("\0")
        assert last == ""
        return found

    @property
    def options(self) -> list[Option]:
        """Each option with its arguments; fails at a word that is no option."""
        found, rest = [], self.words
        while rest:
            count = ARGUMENTS[rest[0]] + 1
            found.append(tuple(rest[:count]))
            rest = rest[count:]
        return found


def made(machine: host.Host, asked: base.Job) -> Made:
    return Made(bubblewrap.command(machine, asked.spec, asked.argv, len(asked.files)), bubblewrap.contents(asked))


def options(machine: host.Host, asked: base.Job | None = None) -> list[Option]:
    return made(machine, asked or job()).options


@pytest.mark.parametrize("kind", ["user", "pid", "ipc", "uts", "cgroup-try"])
def test_namespaces(machine: host.Host, kind: str) -> None:
    assert (f"--unshare-{kind}",) in options(machine)


@pytest.mark.parametrize("network", [True, False])
def test_the_network_namespace_is_its_own_only_without_network(machine: host.Host, network: bool) -> None:
    assert (("--unshare-net",) in options(machine, job({"network": network}))) is not network


@pytest.mark.parametrize(
    "option",
    [
        pytest.param(("--die-with-parent",), id="ends-with-its-session"),
        pytest.param(("--cap-drop", "ALL"), id="no-capabilities"),
        pytest.param(("--hostname", "demo"), id="hostname"),
        pytest.param(("--proc", "/proc"), id="own-proc"),
        pytest.param(("--dev", "/dev"), id="own-dev"),
        pytest.param(("--tmpfs", "/dev/shm"), id="own-shared-memory"),
        pytest.param(("--tmpfs", "/home"), id="no-homes"),
        pytest.param(("--tmpfs", "/home/ann"), id="own-home"),
        pytest.param(("--tmpfs", "/run/user/1000"), id="own-runtime-directory"),
        pytest.param(("--symlink", "usr/bin", "/bin"), id="toolchain-link"),
        pytest.param(("--ro-bind", "/usr", "/usr"), id="toolchain"),
        pytest.param(("--bind", "/srv/demo", "/srv/demo"), id="project"),
        pytest.param(("--chdir", "/srv/demo"), id="working-directory"),
    ],
)
def test_given_once(machine: host.Host, option: Option) -> None:
    assert options(machine).count(option) == 1


@pytest.mark.parametrize(
    "path, mode", [("/home/ann", "0700"), ("/run/user/1000", "0700"), ("/dev/shm", "1777")], ids=["home", "run", "shm"]
)
def test_modes_of_its_own_folders(machine: host.Host, path: str, mode: str) -> None:
    found = options(machine)
    assert found[found.index(("--tmpfs", path)) - 1] == ("--perms", mode)


@pytest.mark.parametrize(
    "mode, option", [("ro", "--ro-bind"), ("rw", "--bind"), ("dev", "--dev-bind")], ids=["ro", "rw", "dev"]
)
def test_mode_of_a_mount(machine: host.Host, mode: str, option: str) -> None:
    binds = (Bind("/host/path", "/inside/path", mode),)
    assert [o for o in options(machine, job(binds=binds)) if "/host/path" in o] == [
        (option, "/host/path", "/inside/path")
    ]


def test_nothing_of_the_host_is_mounted_but_what_the_job_says(machine: host.Host) -> None:
    binds = {option[1] for option in options(machine) if option[0].endswith("bind")}
    assert binds - {"/dev/null"} == {"/usr", "/srv/demo"}


def there(*names: str) -> set[str]:
    """Those files of /proc that this kernel has."""
    return {f"/proc/{name}" for name in names if os.path.exists(f"/proc/{name}")}


@pytest.mark.parametrize("uid", [0, 1000])
def test_what_of_proc_is_the_hosts_is_hidden(machine: host.Host, uid: int) -> None:
    """Names of keys from all; from root what its mere uid opens, and nothing there can be written."""
    owner = dataclasses.replace(ANN, uid=uid)
    found = options(machine, job(owner=owner))
    proc = {option[2]: option[1] for option in found if option[0] == "--ro-bind" and option[2].startswith("/proc/")}
    hidden = {path for path, source in proc.items() if source == "/dev/null"}
    assert there("keys", "key-users") <= hidden
    of_the_host = there("kallsyms", "kcore", "kmsg", "slabinfo", "sysrq-trigger", "timer_list")
    assert of_the_host & hidden == (set() if uid else of_the_host)
    assert ("/proc/sys" in proc) is not bool(uid)
    assert not any(option[0] == "--bind" and option[2].startswith("/proc") for option in found)
    mounted = found.index(("--proc", "/proc"))
    assert all(found.index(("--ro-bind", source, path)) > mounted for path, source in proc.items())


def test_the_environment_is_cleared_before_anything_is_set(machine: host.Host) -> None:
    found = options(machine)
    names = [option[0] for option in found]
    assert names.count("--clearenv") == 1
    assert names.index("--clearenv") < names.index("--setenv")
    assert {option[1:] for option in found if option[0] == "--setenv"} == {
        ("HOME", "/home/ann"),
        ("ANTHROPIC_API_KEY", SECRET),
        ("EMPTY", ""),
    }


def test_nothing_but_the_agent_is_in_the_argv(machine: host.Host) -> None:
    """Whoever lists processes sees no option, no path, no variable, no secret."""
    command = made(machine, job()).command
    assert command.argv[1:] == ("--args", str(command.inputs[0]), "--", *ARGV)


def granted_binds() -> tuple[Bind, ...]:
    """All that can be granted, and mounts above and below each other in an unlucky order."""
    mounts = [{"source": "/m/deep", "target": "/opt/a/b/c"}, {"source": "/m/top", "target": "/opt/a"}]
    every = {**dict.fromkeys(spec.GRANT_DEFAULTS, True), "x11": False}
    asked = spec.parse({"project_dir": "/home/ann/.config/project", "grants": every, "mounts": mounts})
    owner = grants.Owner(ANN.home, ANN.uid, "/run/user/1000", {"SSH_AUTH_SOCK": "/tmp/a"}, "/data", "/store", 1, "/x")
    return grants.resolve(asked, owner, lambda _: True).binds


MOUNTING = ("--ro-bind", "--bind", "--dev-bind", "--tmpfs", "--proc", "--dev")


def test_parents_come_before_children(machine: host.Host) -> None:
    """Else a mount would hide what was mounted below it."""
    masks = (("/usr/share/secret", True),)
    everything = job(binds=(*granted_binds(), *TOOLS.binds), masks=masks)
    targets = [option[-1] for option in options(machine, everything) if option[0] in MOUNTING]
    for earlier, later in itertools.combinations(targets, 2):
        assert not f"{earlier}/".startswith(f"{later.rstrip('/')}/"), f"{later} hides {earlier}"


def test_ordered_keeps_all_and_ignores_a_final_slash() -> None:
    binds = (Bind("/3", "/a/b/c"), Bind("/2", "/a/b/"), Bind("/1", "/a"), Bind("/0", "/"))
    assert [bind.source for bind in base.ordered(binds)] == ["/0", "/1", "/2", "/3"]


def test_masks_hide_a_folder_and_a_file_after_all_mounts(machine: host.Host) -> None:
    found = options(machine, job(masks=(("/usr/share/secret", True), ("/usr/lib/key", False))))
    last_bind = max(i for i, option in enumerate(found) if option[0] == "--bind")
    assert found.index(("--tmpfs", "/usr/share/secret")) > last_bind
    assert found.index(("--ro-bind", "/dev/null", "/usr/lib/key")) > last_bind


def test_the_root_becomes_read_only_when_everything_is_in_it(machine: host.Host) -> None:
    found = options(machine)
    end = found.index(("--remount-ro", "/"))
    building = (*MOUNTING, "--file", "--symlink", "--perms", "--chdir")
    assert not any(option[0] in building for option in found[end:])


def test_files_are_read_from_descriptors_and_private(machine: host.Host) -> None:
    asked = job()
    whole = made(machine, asked)
    found = whole.options
    files = {option[2]: int(option[1]) for option in found if option[0] == "--file"}
    assert {path: whole.contents[number] for path, number in files.items()} == dict(asked.files)
    for path, number in files.items():
        assert found[found.index(("--file", str(number), path)) - 1] == ("--perms", "0600")


def test_status_gate_and_filter(machine: host.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "program", lambda _: b"filter")
    whole = made(machine, job())
    numbers = {option[0]: int(option[1]) for option in whole.options if option[0].endswith(("-fd", "--seccomp"))}
    assert whole.command.outputs == {numbers["--json-status-fd"]: "status"}
    assert whole.command.gates == {numbers["--block-fd"]: "gate"}
    assert whole.contents[numbers["--seccomp"]] == b"filter"


def test_a_machine_without_a_filter_is_told_of_none(machine: host.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "program", lambda _: None)
    whole = made(machine, job())
    assert "--seccomp" not in whole.words
    assert set(whole.contents) == set(whole.command.inputs)


@pytest.mark.parametrize("params", [{}, {"agent": ["shell"]}, {"network": False, "resume": True}])
def test_descriptors_are_of_one_digit_and_each_used_once(machine: host.Host, params: dict[str, Any]) -> None:
    """A POSIX shell opens them, and dash reads 10<file as the argument 10."""
    whole = made(machine, job(params))
    numbers = [*whole.command.inputs, *whole.command.outputs, *whole.command.gates]
    assert len(set(numbers)) == len(numbers)
    assert all(3 <= number <= 9 for number in numbers)


@pytest.mark.parametrize("params", [{}, {"agent": ["shell"]}])
def test_what_is_read_is_what_there_is_to_read(machine: host.Host, params: dict[str, Any]) -> None:
    """In the same order, too: the options come first, for bwrap reads them before all else."""
    whole = made(machine, job(params))
    assert set(whole.contents) == set(whole.command.inputs)
    assert next(iter(whole.contents)) == whole.command.inputs[0] == int(whole.command.argv[2])


def test_more_files_than_descriptors_are_refused(machine: host.Host) -> None:
    with pytest.raises(ValueError, match="4 files"):
        bubblewrap.command(machine, job().spec, ARGV, 4)


def test_words_with_any_character_stay_one_word(machine: host.Host) -> None:
    odd = "/srv/a b--bind'ü"
    found = made(machine, job({"project_dir": odd}, env={"A": f"{odd}\n\t"})).words
    assert found.count(odd) == 1
    assert found.count(f"{odd}\n\t") == 1


@pytest.mark.parametrize(
    "content, code",
    [
        pytest.param(b'{ "child-pid": 5 }\n{ "exit-code": 0 }\n', 0, id="success"),
        pytest.param(b'{ "child-pid": 5 }\n{ "exit-code": 143 }\n', 143, id="signal"),
        pytest.param(b'{ "child-pid": 5 }\n', None, id="runs"),
        pytest.param(b'{ "child-pid": 5 }\n{ "exit-co', None, id="unfinished-line"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"\xff\0{\n[1]\n7\n", None, id="garbage"),
        pytest.param(b'{ "exit-code": "0" }\n', None, id="text"),
        pytest.param(None, None, id="no-file"),
    ],
)
def test_exit_code(tmp_path: Path, content: bytes | None, code: int | None) -> None:
    if content is not None:
        (tmp_path / "status").write_bytes(content)
    assert bubblewrap.exit_code(str(tmp_path)) == code


def test_root_does_nothing_for_it() -> None:
    """Whatever an account asks of root for a sandbox of this kind is refused."""
    assert not bubblewrap.handlers(ANN, trusted=True)
    assert not bubblewrap.handlers(ANN, trusted=False)


def test_a_missing_bwrap_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.Host, "find", lambda *_: None)
    found = bubblewrap.problems(host.Host({}, 1000), job().spec)
    assert found[:1] == [host.missing("bwrap")]
    assert found[0].what == "bwrap is not installed on this host."


def test_a_job_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        job().name = "/"  # type: ignore[misc]


def test_claude_state_is_one_of_the_files() -> None:
    """What the tests above say of files is said of the one with a part of the key in it, too."""
    assert json.loads(job().files["/home/ann/.claude.json"])["customApiKeyResponses"]["approved"] == [SECRET[-20:]]
