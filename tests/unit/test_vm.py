"""The backend vm as data: what QEMU is told, in which order, and what nobody sees in the process list."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import (
    grants,
    guest,
    host,
    kvm,
    spec,
    toolchain,
)
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends import base, vm
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.grants import Bind

ANN = host.Account("ann", 1000, 1000, "/home/ann", "/bin/bash", (1000,))
TOOLS = toolchain.Toolchain("host", (Bind("/usr", "/usr"),), (("/bin", "usr/bin"),), "/usr/bin", "/usr/bin/bash")
SECRET = "sk-made-up-0123456789"
PROJECT = '/srv/a, "project"'


@pytest.fixture(autouse=True)
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "_kvm_trouble", lambda: "there is none")


@pytest.fixture
def job(tmp_path: Path) -> base.Job:
    wanted = asked()
    binds = (
        *TOOLS.binds,
        Bind(PROJECT, PROJECT, grants.READ_WRITE, checked=True),
        Bind("/srv/store/tmp", "/tmp", grants.READ_WRITE),
        Bind("/home/ann/.gitconfig", "/home/ann/.gitconfig"),
    )
    env = {"PATH": "/usr/bin", "TOKEN": SECRET}
    argv = ("/usr/bin/claude", "--flag")
    return base.Job("box", "id", "/r", wanted, ANN, argv, TOOLS, binds, env, {"/etc/passwd": b"ann"}, str(tmp_path))


def asked(**params: Any) -> spec.Spec:
    return spec.parse({"project_dir": PROJECT, "backend": "vm", **params})


def qemu(**params: Any) -> list[str]:
    return list(vm._qemu_options(asked(**params)))


def wrapper(job: base.Job) -> list[str]:
    return [word.decode() for word in vm.contents(job)[3].split(b"\0")[:-1]]


def test_no_path_and_no_secret_is_in_the_argv(job: base.Job) -> None:
    words = " ".join(qemu())
    assert PROJECT not in words
    assert SECRET not in words
    assert words == " ".join(qemu(project_dir="/another"))


def test_without_a_network_there_is_no_device() -> None:
    words = qemu(network=False)
    assert words[words.index("-nic") + 1] == "none"
    assert not [word for word in words if "net" in word and word != "-nic"]
    assert [word for word in qemu() if word.startswith("virtio-net-pci")]


def test_qemu_may_start_nothing_and_gain_nothing() -> None:
    words = qemu()
    assert (
        words[words.index("-sandbox") + 1] == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    )


def test_memory_and_processors_are_as_asked() -> None:
    words = qemu(vm={"memory": 512, "cpus": 3})
    assert words[words.index("-m") + 1] == "512M"
    assert words[words.index("-smp") + 1] == "3"


@pytest.mark.parametrize("geometry,memory", [("640x480", 1 << 24), ("1920x1080", 1 << 24), ("7680x4320", 1 << 27)])
def test_the_screen_has_the_memory_that_it_needs(geometry: str, memory: int) -> None:
    screens = [word for word in qemu(geometry=geometry) if word.startswith("bochs-display")]
    width, height = geometry.split("x")
    assert screens == [f"bochs-display,edid=on,xres={width},yres={height},vgamem={memory}"]
    assert not [word for word in qemu(grants={"display": False}) if "display" in word]


def test_programs_and_the_rest_are_shared_apart_and_by_number(job: base.Job) -> None:
    options = wrapper(job)
    triples = set(zip(options, options[1:], options[2:], strict=False))
    assert ("--ro-bind", "/usr", "/tools/0") in triples
    assert ("--bind", PROJECT, "/work/1") in triples
    assert ("--ro-bind", "/home/ann/.gitconfig", "/work/2") in triples
    assert "/srv/store/tmp" not in options


def test_the_project_is_the_one_thing_that_can_be_written_but_qemus_own(job: base.Job) -> None:
    options = wrapper(job)
    writable = [options[at + 1] for at, word in enumerate(options) if word == "--bind"]
    assert writable == [f"{job.folder}/vm", PROJECT]
    assert options[options.index("--remount-ro") + 1] == "/"


def test_secrets_are_in_the_job_alone(job: base.Job) -> None:
    found = vm.contents(job)
    assert next(iter(found)) == 3
    assert [number for number, content in found.items() if SECRET.encode() in content] == [7]


def test_the_network_is_taken_from_qemu_too(job: base.Job) -> None:
    without = dataclasses.replace(job, spec=asked(network=False))
    assert "--unshare-net" in wrapper(without)


def test_what_is_hidden_of_the_programs_is_hidden_in_the_share(job: base.Job) -> None:
    options = wrapper(dataclasses.replace(job, masks=(("/usr/secret", False), ("/usr/folder", True))))
    triples = set(zip(options, options[1:], options[2:], strict=False))
    assert ("--ro-bind", "/dev/null", "/tools/0/secret") in triples
    assert ("--tmpfs", "/tools/0/folder") in {triple[:2] for triple in triples}


@pytest.mark.parametrize(
    "accel,trouble,expected",
    [
        ("auto", None, ("kvm", "")),
        ("auto", "no", ("tcg", "no")),
        ("kvm", "no", ("kvm", "no")),
        ("tcg", "no", ("tcg", "")),
    ],
)
def test_the_accelerator_is_one_that_works(
    monkeypatch: pytest.MonkeyPatch, accel: str, trouble: str | None, expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(vm, "_kvm_trouble", lambda: trouble)
    assert vm.accelerator(asked(vm={"accel": accel})) == expected


def test_grants_of_the_hosts_sockets_are_refused() -> None:
    found = list(vm._grant_problems(asked(grants={"audio": True, "dbus": True, "git": True})))
    assert [problem.what.split()[0] for problem in found] == ["grants.audio", "grants.dbus"]


def test_what_ended_a_machine_is_told(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert vm.why_dead(folder) == "The terminal that the virtual machine ran in was ended."
    (tmp_path / "vm").mkdir()
    (tmp_path / "status").write_text('{"child-pid": 3}\n{"exit-code": 137}\n')
    assert vm.why_dead(folder) == "QEMU ended by signal 9."
    (tmp_path / "vm" / "report").write_text("started 5\nexit 137\n")
    assert (vm.why_dead(folder), vm.exit_code(folder)) == (None, 137)
    log = tmp_path / "vm" / "log"
    log.write_bytes(b"[ 1] Out of memory: Killed process 5 (node) total-vm:1kB\r\n")
    assert vm.why_dead(folder) == "The guest ran out of memory: it killed 5 (node) total-vm:1kB."
    log.write_bytes(b"[ 1] Kernel panic - not syncing: \x1b[1mno init\r\n")
    assert vm.why_dead(folder) == "The guest's kernel panicked: ?[1mno init."
    (tmp_path / "vm" / "report").write_text("failed it is full\n")
    assert vm.why_dead(folder) == "The guest could not be put together: it is full."


def test_a_report_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    (tmp_path / "other").write_text("exit 0\n")
    os.symlink(tmp_path / "other", tmp_path / "vm" / "report")
    assert vm.exit_code(str(tmp_path)) is None


def test_kvm_says_why_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    assert kvm.trouble() in (f"there is no {tmp_path}/kvm", "it is tried on x86_64 alone")
    (tmp_path / "kvm").write_bytes(b"")
    assert "does" in (kvm.trouble() or "") or "stops" in (kvm.trouble() or "") or os.uname().machine != "x86_64"


def test_the_interface_is_all_there() -> None:
    for name in vars(base.Backend):
        if not name.startswith("_"):
            assert hasattr(vm, name), name
    assert vm.OWN_SCREEN
    assert guest.WORK in vm._WORK


# The kernel.


def bound_guest(job: base.Job) -> str:
    """What of the host QEMU takes its kernel from."""
    options = list(vm._options(job))
    return options[options.index("/guest") - 1]


def test_the_kernel_is_the_toolchains_where_no_other_is_named(job: base.Job) -> None:
    own = dataclasses.replace(TOOLS, guest="/nix/store/a-guest")
    assert bound_guest(job) == "/usr/local/lib/claude-sandbox/guest"
    assert bound_guest(dataclasses.replace(job, toolchain=own)) == "/nix/store/a-guest"
    named = dataclasses.replace(job, spec=asked(vm={"guest": "/srv/guest"}), toolchain=own)
    assert bound_guest(named) == "/srv/guest"
