"""Where the programs inside come from, on this machine and on made-up trees."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import (
    closure,
    host,
    spec,
    toolchain,
)
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.grants import Bind
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.toolchain import Toolchain

needs_bash = pytest.mark.skipif(not os.path.exists("/usr/bin/bash"), reason="this machine has no /usr/bin/bash")
INSIDE = "/opt/claude-sandbox/bin/claude"


ELF = b"\x7fELF and more"
SCRIPT = b"#!/usr/bin/env node\n"


def asked(**params: Any) -> spec.Spec:
    return spec.parse({"project_dir": "/srv/demo", **params})


def account(home: Path) -> host.Account:
    return host.Account("ann", 1000, 1000, str(home), "/bin/sh", ())


def executable(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Nix profile: a link to a tree of programs."""
    (tmp_path / "store" / "bin").mkdir(parents=True)
    (tmp_path / "profile").symlink_to(tmp_path / "store")
    monkeypatch.setattr(toolchain, "NIX_PROFILE", str(tmp_path / "profile"))
    return tmp_path / "store" / "bin"


@pytest.fixture
def no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "NIX_PROFILE", str(tmp_path / "nowhere"))
    monkeypatch.setattr(toolchain, "NIXOS_TOOLCHAINS", str(tmp_path / "nixos"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the toolchain that a flake made."""
    made = tmp_path / "store"
    monkeypatch.setattr(toolchain, "_NIX_STORE", str(made))
    monkeypatch.setattr(closure, "STORE", str(made))
    (made / "bash").mkdir(parents=True)
    executable(made / "bash/bin/bash", ELF)
    executable(made / "tools/bin/claude", ELF)
    (made / "policies").mkdir()
    describe(made)
    return made


def describe(store: Path, **other: Any) -> Path:
    """Write down a toolchain of a store; what is None is left out."""
    content = {
        "version": 1,
        "path": [f"{store}/tools/bin"],
        "shell": f"{store}/bash/bin/bash",
        "links": {"/bin/sh": f"{store}/bash/bin/bash", "/lib64/ld-linux-x86-64.so.2": f"{store}/nix-ld"},
        "etc": {"chromium": f"{store}/policies"},
        "environment": {"NIX_LD": f"{store}/loader", "HOME": "/nowhere"},
        **other,
    }
    path = store / "tools/share/claude-sandbox/toolchain.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return path


# Which one.


@needs_bash
@pytest.mark.parametrize("kind, found", [("auto", "nix"), ("nix", "nix"), ("host", "host")])
def test_with_a_profile(profile: Path, kind: str, found: str) -> None:
    assert toolchain.find(asked(toolchain=kind)).kind == found


@needs_bash
@pytest.mark.parametrize("kind", ["auto", "host"])
def test_without_a_profile(no_profile: None, kind: str) -> None:
    assert toolchain.find(asked(toolchain=kind)).kind == "host"


def test_nix_without_a_profile_is_told(no_profile: None) -> None:
    with pytest.raises(SandboxError, match="has no Nix profile") as caught:
        toolchain.find(asked(toolchain="nix"))
    assert "toolchain: host" in caught.value.hint


def test_nix_leads_to_the_store_and_not_to_the_profile(profile: Path) -> None:
    """The profile is not inside, and may lead elsewhere tomorrow."""
    found = toolchain.find(asked(toolchain="nix"))
    assert found.shell == f"{profile}/bash"
    assert found.path == f"/opt/claude-sandbox/bin:{profile}"
    assert dict(found.links) == {"/bin/sh": f"{profile}/bash", "/usr/bin/env": f"{profile}/env"}
    assert Bind("/nix/store", "/nix/store") in found.binds
    assert not any(bind.target in ("/usr", "/bin") for bind in found.binds)


@needs_bash
def test_the_hosts_links_are_links_inside_and_its_folders_are_mounted(no_profile: None) -> None:
    found = toolchain.find(asked(toolchain="host"))
    mounted = {bind.target for bind in found.binds}
    assert Bind("/usr", "/usr") in found.binds
    for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(path):
            assert dict(found.links)[path] == os.readlink(path)
            assert path not in mounted
        else:
            assert (path in mounted) == os.path.isdir(path)


@needs_bash
def test_nothing_of_the_hosts_accounts_and_keys_is_inside(no_profile: None) -> None:
    found = toolchain.find(asked(toolchain="host"))
    targets = {bind.target for bind in found.binds}
    assert all(bind.mode == "ro" and not bind.checked for bind in found.binds)
    assert not targets & {
        "/etc",
        "/etc/passwd",
        "/etc/group",
        "/etc/shadow",
        "/etc/ssh",
        "/etc/ssl",
        "/etc/ssl/private",
    }
    assert not any(f"{target}/".startswith(("/home/", "/root/", "/var/", "/run/")) for target in targets)
    assert len(targets) == len(found.binds)


@needs_bash
def test_the_files_behind_links_are_mounted(no_profile: None) -> None:
    """Where a link points to may not be inside."""
    found = toolchain.find(asked(toolchain="host"))
    for bind in found.binds:
        if bind.target.startswith("/etc/"):
            assert bind.source == os.path.realpath(bind.target)


# What a flake made.


def test_what_the_flake_says_is_what_is_inside(store: Path, no_profile: None) -> None:
    found = toolchain.find(asked(nix_toolchain=f"{store}/tools"))
    assert (found.kind, found.shell, found.guest) == ("nix", f"{store}/bash/bin/bash", None)
    assert found.path == f"/opt/claude-sandbox/bin:{store}/tools/bin"
    assert dict(found.links)["/lib64/ld-linux-x86-64.so.2"] == f"{store}/nix-ld"
    mounted = targets(found)
    assert mounted.pop(str(store)) == str(store)
    assert mounted.pop("/etc/chromium") == f"{store}/policies"
    assert mounted.keys() <= {"/etc/hosts", "/etc/localtime", "/etc/resolv.conf", "/etc/timezone"}
    assert toolchain.agent_argv(asked(), found, account(store))[0] == [f"{store}/tools/bin/claude"]


def test_a_flakes_toolchain_is_found_by_its_profile(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.parent / "profile").symlink_to(store / "tools")
    monkeypatch.setattr(toolchain, "NIX_PROFILE", str(store.parent / "profile"))
    describe(store, guest=f"{store}/guest")
    assert toolchain.find(asked()).guest == f"{store}/guest"


def test_nixos_has_one_for_each_backend(store: Path, no_profile: None) -> None:
    places = store.parent / "nixos"
    places.mkdir()
    (places / "container").symlink_to(store / "tools")
    assert toolchain.find(asked(backend="container", toolchain="nix")).kind == "nix"
    with pytest.raises(SandboxError, match="has no Nix profile"):
        toolchain.find(asked(backend="vm", toolchain="nix"))


@needs_bash
def test_what_is_named_comes_before_what_is_found(rootfs: Path, store: Path, profile: Path) -> None:
    assert toolchain.find(asked(rootfs=str(rootfs))).kind == "rootfs"
    assert toolchain.find(asked(nix_toolchain=f"{store}/tools")).shell == f"{store}/bash/bin/bash"


@pytest.mark.parametrize("path", ["none", "bash/bin/bash"])
def test_a_toolchain_that_is_none_is_told(store: Path, path: str) -> None:
    with pytest.raises(SandboxError, match="is no toolchain: it has no bin"):
        toolchain.find(asked(nix_toolchain=f"{store}/{path}"))


def test_what_is_gone_is_told_by_its_name(store: Path) -> None:
    """The store's garbage is collected; without its shell nothing would come up, and nobody would know why."""
    (store / "policies").rmdir()
    with pytest.raises(SandboxError, match=f"names '{store}/policies', which is gone"):
        toolchain.find(asked(nix_toolchain=f"{store}/tools"))


@pytest.mark.parametrize(
    "other, trouble",
    [
        pytest.param({"version": 2}, "not of version 1", id="version"),
        pytest.param({"path": None}, "'path' is missing", id="no-path"),
        pytest.param({"path": []}, "path is no list", id="empty-path"),
        pytest.param({"path": ["/usr/bin"]}, "'/usr/bin' is no path in", id="path-of-the-host"),
        pytest.param({"path": ["STORE/../../usr/bin"]}, "is no path in", id="path-with-dots"),
        pytest.param({"path": ["STORE/a:/usr/bin"]}, "is no path in", id="path-of-two"),
        pytest.param({"shell": 3}, "3 is no text", id="shell"),
        pytest.param({"shell": "STORE/a\0"}, "is no text", id="nul"),
        pytest.param({"shell": "STORE/a\nb"}, "is no text", id="newline"),
        pytest.param({"links": []}, "links is no mapping", id="links"),
        pytest.param({"links": {"/etc/passwd": "STORE/a"}}, "nothing can be linked at '/etc/passwd'", id="link-in-etc"),
        pytest.param({"links": {"/usr/../etc/x": "STORE/a"}}, "nothing can be linked", id="link-with-dots"),
        pytest.param({"links": {"/usr": "STORE/a"}}, "nothing can be linked", id="link-at-the-top"),
        pytest.param({"links": {"usr/bin/env": "STORE/a"}}, "nothing can be linked", id="link-relative"),
        pytest.param({"links": {"/bin/sh": "/proc/1/root"}}, "is no path in", id="link-to-the-host"),
        pytest.param({"etc": {"passwd": "STORE/a"}}, "'passwd' is no file of programs", id="etc-of-accounts"),
        pytest.param({"etc": {"../root": "STORE/a"}}, "is no file of programs", id="etc-with-dots"),
        pytest.param({"etc": {"ssl/certs": "STORE/a"}}, "is no file of programs", id="etc-below"),
        pytest.param({"etc": {"ssl": "/etc/shadow"}}, "is no path in", id="etc-of-the-host"),
        pytest.param({"environment": {"A=B": "c"}}, "is no name of a variable", id="variable"),
        pytest.param({"environment": {"A": None}}, "None is no text", id="variable-of-nothing"),
        pytest.param({"guest": "/boot"}, "is no path in", id="guest-of-the-host"),
        pytest.param({"links": {f"/bin/{n}": "STORE/a" for n in range(2000)}}, "links is no mapping", id="many"),
        pytest.param({"environment": {"A": "x" * (1 << 21)}}, "longer than", id="long"),
    ],
)
def test_a_hostile_description(store: Path, other: dict[str, Any], trouble: str) -> None:
    """Whoever may use a Nix daemon can put one into the store."""
    path = describe(store, **json.loads(json.dumps(other).replace("STORE", str(store))))
    if "path" in other and other["path"] is None:
        path.write_text(json.dumps({"version": 1}))
    with pytest.raises(SandboxError) as caught:
        toolchain.find(asked(nix_toolchain=f"{store}/tools"))
    assert trouble in caught.value.what
    assert str(path) in caught.value.what
    assert len(caught.value.what) < 600


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_a_description_that_is_no_json(store: Path, content: bytes) -> None:
    describe(store).write_bytes(content)
    with pytest.raises(SandboxError, match="describes no toolchain"):
        toolchain.find(asked(nix_toolchain=f"{store}/tools"))


def test_the_store_is_not_walked_for_what_is_to_be_hidden(store: Path) -> None:
    (store / "secret").mkdir(mode=0o700)
    hidden = toolchain.masks(toolchain.find(asked(nix_toolchain=f"{store}/tools")))
    assert not [path for path, _is_folder in hidden if "secret" in path]


# A tree of programs that is not the host's.


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A tree with a bash, links as distributions have them, and files of /etc that are the tree's own."""
    root = tmp_path / "rootfs"
    executable(root / "usr/bin/bash", ELF)
    (root / "usr/lib").mkdir()
    (root / "bin").symlink_to("usr/bin")
    (root / "lib64").mkdir()
    (root / "etc/java-21-openjdk").mkdir(parents=True)
    for name in ("hosts", "localtime", "resolv.conf", "timezone", "services", "passwd", "shadow"):
        (root / "etc" / name).write_text(f"the tree's {name}")
    (root / "etc/mime.types").write_text("not for everybody")
    (root / "etc/mime.types").chmod(0o600)
    return root


def targets(found: Toolchain) -> dict[str, str]:
    return {bind.target: bind.source for bind in found.binds}


@pytest.mark.parametrize("kind", ["auto", "rootfs"])
def test_a_tree_is_taken_where_it_is_given(rootfs: Path, no_profile: None, kind: str) -> None:
    found = toolchain.find(asked(toolchain=kind, rootfs=str(rootfs)))
    assert (found.kind, found.root, found.shell) == ("rootfs", str(rootfs), "/usr/bin/bash")
    assert found.path == "/opt/claude-sandbox/bin:/usr/local/bin:/usr/bin"
    assert found.links == (("/bin", "usr/bin"),)
    assert targets(found)["/usr"] == f"{rootfs}/usr"
    assert targets(found)["/lib64"] == f"{rootfs}/lib64"
    assert all(bind.mode == "ro" and not bind.checked for bind in found.binds)


@needs_bash
@pytest.mark.parametrize("backend, kind", [("vm", "rootfs"), ("container", "host"), ("bubblewrap", "host")])
def test_a_machine_of_its_own_takes_the_tree_that_is_there(
    rootfs: Path, no_profile: None, monkeypatch: pytest.MonkeyPatch, backend: str, kind: str
) -> None:
    monkeypatch.setattr(toolchain, "ROOTFS", str(rootfs))
    assert toolchain.find(asked(backend=backend)).kind == kind
    assert toolchain.find(asked(backend=backend, toolchain="rootfs")).root == str(rootfs)


def test_a_profile_comes_before_a_tree_that_nobody_named(
    rootfs: Path, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "ROOTFS", str(rootfs))
    assert toolchain.find(asked(backend="vm")).kind == "nix"


@pytest.mark.parametrize("given", [True, False])
def test_no_tree_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    monkeypatch.setattr(toolchain, "ROOTFS", f"{tmp_path}/none")
    with pytest.raises(SandboxError, match="There is no tree of programs at") as caught:
        toolchain.find(asked(toolchain="rootfs", rootfs=f"{tmp_path}/none" if given else None))
    assert f"{tmp_path}/none" in caught.value.what
    assert "give another rootfs" in caught.value.hint


@pytest.mark.parametrize("name", ["hosts", "localtime", "resolv.conf", "timezone"])
def test_where_it_runs_is_said_by_the_host(rootfs: Path, name: str) -> None:
    """Names and the time are the host's, whatever tree the programs are from."""
    found = targets(toolchain.find(asked(toolchain="rootfs", rootfs=str(rootfs))))
    expected = os.path.realpath(f"/etc/{name}")
    if os.path.exists(expected):
        assert found[f"/etc/{name}"] == expected
    else:
        assert f"/etc/{name}" not in found


def test_of_etc_only_what_programs_need_and_everybody_may_read(rootfs: Path) -> None:
    found = targets(toolchain.find(asked(toolchain="rootfs", rootfs=str(rootfs))))
    of_the_tree = {target: source for target, source in found.items() if source.startswith(f"{rootfs}/etc/")}
    assert of_the_tree == {
        "/etc/services": f"{rootfs}/etc/services",
        "/etc/java-21-openjdk": f"{rootfs}/etc/java-21-openjdk",
    }


@pytest.mark.parametrize(
    "points_to",
    [
        pytest.param("/etc/real", id="absolute"),
        pytest.param("real", id="relative"),
        pytest.param("../etc/real", id="by-its-parent"),
        pytest.param("../../../../../../etc/real", id="above-the-root"),
        pytest.param("/../etc/./real", id="above-the-root-absolute"),
        pytest.param("/usr/../etc/real", id="by-another-folder"),
        pytest.param("/linked/real", id="by-a-link-to-a-folder"),
        pytest.param("/etc/second", id="by-another-link"),
    ],
)
def test_a_link_in_the_tree_leads_where_it_leads_inside(rootfs: Path, points_to: str) -> None:
    """On the host an absolute one, or one with too many .., would lead to a file of the host's."""
    (rootfs / "etc/real").write_text("real")
    (rootfs / "etc/second").symlink_to("/etc/real")
    (rootfs / "linked").symlink_to("/etc")
    (rootfs / "etc/os-release").symlink_to(points_to)
    found = targets(toolchain.find(asked(toolchain="rootfs", rootfs=str(rootfs))))
    assert found["/etc/os-release"] == f"{rootfs}/etc/real"


def test_a_link_to_a_file_of_the_host_alone_leads_nowhere(rootfs: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    (rootfs / "etc/os-release").symlink_to(secret)
    (rootfs / "etc/protocols").symlink_to("/etc/passwd-of-the-host-alone")
    (rootfs / "etc/fonts").symlink_to(os.path.relpath(secret, rootfs / "etc"))
    found = targets(toolchain.find(asked(toolchain="rootfs", rootfs=str(rootfs))))
    assert not {"/etc/os-release", "/etc/protocols", "/etc/fonts"} & set(found)


@pytest.mark.parametrize("links", [{"os-release": "os-release"}, {"os-release": "other", "other": "/etc/os-release"}])
def test_links_in_a_circle_are_told(rootfs: Path, links: dict[str, str]) -> None:
    for name, points_to in links.items():
        (rootfs / "etc" / name).symlink_to(points_to)
    with pytest.raises(SandboxError, match="too many links on its way") as caught:
        toolchain.find(asked(toolchain="rootfs", rootfs=str(rootfs)))
    assert f"{rootfs}/etc/os-release" in caught.value.what


def test_the_tree_itself_may_have_its_bash_behind_a_link(rootfs: Path) -> None:
    (rootfs / "usr/bin/bash").rename(rootfs / "usr/lib/bash")
    (rootfs / "usr/bin/bash").symlink_to("/usr/lib/bash")
    assert toolchain.find(asked(toolchain="rootfs", rootfs=str(rootfs))).kind == "rootfs"
    (rootfs / "usr/bin/bash").unlink()
    # On the host it may be there: inside it would lead nowhere.
    (rootfs / "usr/bin/bash").symlink_to("/bin/of-the-host/bash")
    with pytest.raises(SandboxError, match="it has no /usr/bin/bash"):
        toolchain.find(asked(toolchain="rootfs", rootfs=str(rootfs)))


def test_claude_of_the_tree_is_found_in_the_tree(rootfs: Path, tmp_path: Path) -> None:
    """By its path inside, also where it is a link there; the account's own is not looked for then."""
    executable(tmp_path / ".local/bin/claude", ELF)
    program = executable(rootfs / "opt/claude/claude", ELF)
    (rootfs / "usr/local/bin").mkdir(parents=True)
    (rootfs / "usr/local/bin/claude").symlink_to("/opt/claude/claude")
    found = toolchain.find(asked(toolchain="rootfs", rootfs=str(rootfs)))
    assert toolchain.agent_argv(asked(), found, account(tmp_path)) == (["/usr/local/bin/claude"], ())
    program.unlink()
    own = Bind(f"{tmp_path}/.local/bin/claude", INSIDE)
    assert toolchain.agent_argv(asked(), found, account(tmp_path)) == ([INSIDE], (own,))


# The agent's program.


def tools(folder: Path) -> Toolchain:
    return Toolchain("host", (), (), str(folder), "/usr/bin/bash")


@pytest.mark.parametrize(
    "agent, argv",
    [
        pytest.param(["shell"], ["/usr/bin/bash"], id="shell"),
        pytest.param(["python3", "-q"], ["python3", "-q"], id="program"),
        pytest.param(["shell", "-c"], ["shell", "-c"], id="a-program-of-that-name"),
        pytest.param(["claude", "-x"], ["claude", "-x"], id="claude-by-hand"),
    ],
)
def test_another_agent(tmp_path: Path, agent: list[str], argv: list[str]) -> None:
    assert toolchain.agent_argv(asked(agent=agent), tools(tmp_path), account(tmp_path)) == (argv, ())


@pytest.mark.parametrize("content", [ELF, SCRIPT], ids=["program", "script"])
def test_claude_of_the_toolchain_comes_first(tmp_path: Path, content: bytes) -> None:
    """It is inside with all that belongs to it, so that it may be a script."""
    path = executable(tmp_path / "bin" / "claude", content)
    executable(tmp_path / ".local/bin/claude", ELF)
    found = toolchain.agent_argv(asked(), tools(path.parent), account(tmp_path))
    assert found == ([str(path)], ())


@pytest.mark.parametrize("place", [".local/bin", ".claude/local"])
def test_claude_of_the_account_is_mounted_as_one_file(tmp_path: Path, place: str) -> None:
    program = executable(tmp_path / "versions" / "2.1", ELF)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "claude").symlink_to(program)
    found = toolchain.agent_argv(asked(), tools(tmp_path / "empty"), account(tmp_path))
    assert found == ([INSIDE], (Bind(str(program), INSIDE),))


@pytest.mark.parametrize("content", [SCRIPT, b"", b"\x7fEL"], ids=["script", "empty", "cut"])
def test_a_script_of_the_account_is_told(tmp_path: Path, content: bytes) -> None:
    path = executable(tmp_path / ".local/bin/claude", content)
    with pytest.raises(SandboxError) as caught:
        toolchain.agent_argv(asked(), tools(tmp_path / "empty"), account(tmp_path))
    assert f"{path} is a script" in caught.value.what
    assert "native program" in caught.value.hint


def test_no_claude_is_told_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="claude is not installed on this host") as caught:
        toolchain.agent_argv(asked(), tools(tmp_path), account(tmp_path))
    assert "@anthropic-ai/claude-code" in caught.value.hint


# What is not for everybody.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    for name, mode in {"open": 0o755, "closed": 0o700, "listed-only": 0o744, "passed-only": 0o711}.items():
        (top / name).mkdir(parents=True)
        for file, file_mode in {"readable": 0o644, "secret": 0o640, "executed-only": 0o711}.items():
            (top / name / file).touch()
            (top / name / file).chmod(file_mode)
        (top / name).chmod(mode)
    (top / "open" / "link").symlink_to("/etc/shadow")
    (top / "open" / "dangling").symlink_to("nowhere")
    top.chmod(0o755)
    return top


def masked(*binds: Bind) -> set[tuple[str, bool]]:
    return set(toolchain.masks(Toolchain("host", binds, (), "", "")))


def test_masks(tree: Path) -> None:
    """A closed folder is named as a whole, and what is in it is not."""
    found = masked(Bind(str(tree), str(tree)))
    assert {(path.removeprefix(f"{tree}/"), folder) for path, folder in found} == {
        ("open/secret", False),
        ("open/executed-only", False),
        ("closed", True),
        ("listed-only", True),
        ("passed-only", True),
    }


def test_masks_of_single_files(tree: Path) -> None:
    readable, secret = f"{tree}/open/readable", f"{tree}/open/secret"
    assert masked(Bind(readable, readable), Bind(secret, secret)) == {(secret, False)}


def test_masks_are_where_the_mount_is(tree: Path) -> None:
    """What of /etc is a link is mounted from where the link leads to."""
    assert masked(Bind(f"{tree}/open", "/etc/open")) == {
        ("/etc/open/secret", False),
        ("/etc/open/executed-only", False),
    }


# What a host offers.


def test_programs_are_looked_for_in_absolute_directories_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative one would find what a project has put in the way."""
    executable(tmp_path / "tool-of-the-project", ELF)
    monkeypatch.chdir(tmp_path)
    for path in (".", "", "::", "bin:.:"):
        assert host.Host({"PATH": path}, 1000).find("tool-of-the-project") is None
    assert host.Host({"PATH": str(tmp_path)}, 1000).find("tool-of-the-project") == str(tmp_path / "tool-of-the-project")
    assert host.Host({}, 1000).find("sh") == shutil.which("sh", path=host.SYSTEM_PATH)


@pytest.mark.parametrize(
    "there, program, hint",
    [
        pytest.param((), "no-such-tool", "Install the package no-such-tool.", id="of-its-own-name"),
        pytest.param((), "bwrap", "Install the package bubblewrap.", id="of-another-name"),
        pytest.param(
            ("/usr/bin/apt-get",),
            "bwrap",
            "Install the package bubblewrap; as root: apt-get install bubblewrap",
            id="apt",
        ),
        pytest.param(
            ("/usr/bin/apt-get",), "Xvfb", "Install the package xvfb; as root: apt-get install xvfb", id="xvfb"
        ),
        pytest.param(
            ("/etc/NIXOS", "/usr/bin/apt-get"),
            "Xvfb",
            "Add pkgs.xorg.xorgserver to environment.systemPackages.",
            id="nixos",
        ),
        pytest.param(
            ("/usr/bin/apt-get",),
            "systemd-nspawn",
            "Install the package systemd-container; as root: apt-get install systemd-container",
            id="nspawn",
        ),
        pytest.param(
            (),
            "claude",
            "Install the package @anthropic-ai/claude-code from npm, or let the role sandbox do it.",
            id="claude",
        ),
    ],
)
def test_a_missing_program_is_told_with_its_package(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], program: str, hint: str
) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: path in there)
    monkeypatch.setattr(host.Host, "find", lambda *_: None)
    assert host.missing(program) == host.Problem(f"{program} is not installed on this host.", hint)
    with pytest.raises(SandboxError, match=f"{program} is not installed") as caught:
        host.Host({}, 1000).need(program)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "uid, environ, path",
    [
        pytest.param(0, {"XDG_STATE_HOME": "/x"}, "/var/lib/claude-manager", id="root"),
        pytest.param(1 << 30, {"XDG_STATE_HOME": "/x"}, "/x/claude-sandbox", id="as-the-account-says"),
        pytest.param(1 << 30, {"XDG_STATE_HOME": "x"}, "HOME/.local/state/claude-sandbox", id="relative-is-ignored"),
        pytest.param(1 << 30, {}, "HOME/.local/state/claude-sandbox", id="default"),
    ],
)
def test_state_dir(monkeypatch: pytest.MonkeyPatch, uid: int, environ: dict[str, str], path: str) -> None:
    # No account has this uid, so that its home is what the environment says.
    monkeypatch.setenv("HOME", "/home/nobody-knows")
    assert host.Host(environ, uid).state_dir() == path.replace("HOME", "/home/nobody-knows")
