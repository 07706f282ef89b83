"""Each output of the flake is what its users expect, on both systems."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import closure
from tests.hosts.layout import CHECKOUT
from tests.nix.flake import SYSTEM, SYSTEMS, Flake

PACKAGES = {
    "cli": "claude-remote",
    "container": "claude-sandbox-container",
    "container-no-network": "claude-sandbox-container",
    "default": "claude-sandbox",
    "manager": "claude-sandbox-manager",
    "no-network": "claude-sandbox",
    "sandbox": "claude-sandbox",
    "vm": "claude-sandbox-vm",
    "vm-no-network": "claude-sandbox-vm",
}
TOOLCHAINS = {"toolchain": "bubblewrap", "toolchain-container": "container", "toolchain-vm": "vm"}
_OF_PACKAGES = """
packages: builtins.mapAttrs (_: package: {
  inherit (package) drvPath;
  main = package.meta.mainProgram or null;
  backend = package.backend or null;
  network = package.network or null;
  toolchain = if package ? toolchain then package.toolchain.drvPath else null;
}) packages
"""
PINS = {
    "nixpkgs": "ffb3c9b700e759be2ef13237c9d8f953b32a1e46",
    "claude-code": "7bcfdf12020b049dd8fa0fcaf069ef2c531de405",
    "systems": "da67096a3b9bf56a91d16901293e51ba5b49a27e",
}


def _files() -> list[str]:
    argv = ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard", "*.nix"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()


def test_each_file_parses(flake: Flake) -> None:
    ours = [name for name in _files() if not name.startswith("tests/")]
    assert "flake.nix" in ours
    flake.nix.said("nix-instantiate", "--parse", *(str(flake.folder / "project" / name) for name in ours))


@pytest.mark.parametrize("system", SYSTEMS)
def test_packages(flake: Flake, system: str) -> None:
    found = flake.evaluate(f"packages.{system}", _OF_PACKAGES)
    assert {name: each["main"] for name, each in found.items() if name not in TOOLCHAINS} == PACKAGES
    assert found["sandbox"] == found["default"]
    assert {found[name]["drvPath"] for name in TOOLCHAINS} == {
        found[name]["toolchain"] for name in ("default", "container", "vm")
    }
    for name, each in found.items():
        if each["backend"]:
            assert each["network"] is not name.endswith("no-network"), name
    offline = {name: found[name]["toolchain"] for name in found if name.endswith("no-network")}
    assert offline == {
        "no-network": found["default"]["toolchain"],
        "container-no-network": found["container"]["toolchain"],
        "vm-no-network": found["vm"]["toolchain"],
    }, "what is inside is the same with and without the network"


@pytest.mark.parametrize("system", SYSTEMS)
def test_other_outputs(flake: Flake, system: str) -> None:
    programs = flake.evaluate(f"apps.{system}", "apps: builtins.mapAttrs (_: app: app.program) apps")
    assert {name: program.rsplit("/", 1)[1] for name, program in programs.items()} == PACKAGES
    assert flake.evaluate(f"devShells.{system}.default.drvPath").endswith(".drv")
    assert flake.evaluate(f"formatter.{system}.drvPath").endswith(".drv")
    checks = {"agent-apart", "bubblewrap", "container", "manager"} | ({"vm"} if system == SYSTEM else set())
    assert set(flake.evaluate(f"checks.{system}", "builtins.attrNames")) == checks


def test_modules_and_overlay(flake: Flake) -> None:
    assert flake.evaluate("nixosModules", "builtins.mapAttrs (_: builtins.isFunction)") == {
        "default": True,
        "manager": True,
    }
    overlay = "overlay: builtins.attrNames (overlay { } { })"
    assert flake.evaluate("overlays.default", overlay) == ["claude-sandbox"]


def test_lock_is_what_the_flake_asks_for(flake: Flake) -> None:
    # Offline, and refused where it would have to change.
    argv = ("nix", "flake", "metadata", "--json", "--no-update-lock-file", f"path:{flake.folder}/project")
    locked = flake.nix.json(*argv)["locks"]["nodes"]
    assert {name: node["locked"]["rev"] for name, node in locked.items() if name != "root"} == PINS
    assert locked["claude-code"]["inputs"]["nixpkgs"] == ["nixpkgs"]


@pytest.fixture(scope="session")
def described(flake: Flake) -> dict[str, dict[str, object]]:
    """By package, what the engine is told of a toolchain."""

    def read() -> Iterator[tuple[str, dict[str, object]]]:
        for name in TOOLCHAINS:
            yield name, json.loads(flake.content(flake.build(name) / "share/claude-sandbox/toolchain.json"))

    return dict(read())


@pytest.mark.parametrize("name", TOOLCHAINS)
def test_toolchain(flake: Flake, described: dict[str, dict[str, object]], name: str) -> None:
    found = closure.parse(json.dumps(described[name]).encode(), name)

    stored = [*found.path, found.shell, *found.links.values(), *found.etc.values(), *filter(None, [found.guest])]
    lacking = [path for path in stored if flake.nix.run("test", "-e", path).returncode]
    assert lacking == []
    assert {"/bin/sh", "/usr/bin/env", "/lib64/ld-linux-x86-64.so.2"} <= found.links.keys()
    assert {"ssl", "fonts", "chromium", "protocols", "services"} <= found.etc.keys()
    assert {"NIX_LD", "NIX_LD_LIBRARY_PATH", "SSL_CERT_FILE"} <= found.env.keys()
    policy = json.loads(flake.content(f"{found.etc['chromium']}/policies/managed/claude-sandbox.json"))
    assert "fcoeoabgfenejglbffodgkkbkcdhcgfn" in json.dumps(policy)
    assert (found.guest is not None) is (name == "toolchain-vm")
    if found.guest:
        assert {"kernel", "initrd"} <= {path.name for path in flake.seen(found.guest).iterdir()}


@pytest.mark.parametrize("name", TOOLCHAINS)
def test_programs_inside(flake: Flake, name: str) -> None:
    expected = {"bash", "bun", "chromium", "claude", "curl", "env", "fd", "file", "find", "gcc", "gh", "git", "jq"}
    expected |= {"less", "ls", "gnumake", "nix", "nodejs", "openssh", "procps", "python3", "ripgrep", "rsync", "tmux"}
    assert expected <= set(flake.nix.said("ls", f"{flake.build(name)}/bin/").split())


def test_one_list_of_programs_for_all(flake: Flake) -> None:
    programs = {name: set(flake.nix.said("ls", f"{flake.build(name)}/bin/").split()) for name in TOOLCHAINS}
    assert programs["toolchain"] == programs["toolchain-container"]
    # A guest has the agent of QEMU and a screen of its own besides.
    assert programs["toolchain"] < programs["toolchain-vm"]


@pytest.mark.parametrize(
    "package, change",
    [
        ("default", "extraPackages = [ extra ]"),
        ("container", "extraModules = [ { environment.systemPackages = [ extra ]; } ]"),
        ("vm", "extraModules = [ { environment.systemPackages = [ extra ]; } ]"),
    ],
)
def test_more_programs(flake: Flake, package: str, change: str) -> None:
    # `psql` is a program that no other package has.
    extra = f"""extra = derivation {{
      name = "extra"; system = "{SYSTEM}"; builder = "/bin/sh";
      args = [ "-c" "/bin/mkdir -p $out/bin; echo > $out/bin/psql" ];
    }}"""
    function = f"package: let {extra}; in (package.override {{ {change}; }}).toolchain.drvPath"
    drv = flake.evaluate(f"packages.{SYSTEM}.{package}", function)
    assert "psql" in flake.nix.said("ls", f"{flake.build_drv(drv)}/bin/").split()


def test_what_changes_with_claude_code(flake: Flake) -> None:
    before = flake.evaluate(f"packages.{SYSTEM}", _OF_PACKAGES)
    version = flake.folder / "claude-code/version"
    version.write_text("2")
    try:
        after = flake.evaluate(f"packages.{SYSTEM}", _OF_PACKAGES)
    finally:
        version.write_text("1")
    changed = {name for name in before if before[name]["drvPath"] != after[name]["drvPath"]}
    assert changed == {*PACKAGES, *TOOLCHAINS} - {"manager", "cli"}
    for name in ("manager", "cli"):
        assert not any("-claude-code" in path for path in flake.build_closure(before[name]["drvPath"])), name
    # The same question finds it where it is.
    assert any("-claude-code" in path for path in flake.build_closure(before["default"]["drvPath"]))


def test_documentation_changes_no_package(flake: Flake) -> None:
    before = flake.evaluate(f"packages.{SYSTEM}", _OF_PACKAGES)
    for path, same in (("docs/changed.md", True), ("cli/claude_launcher/changed.py", False)):
        added = flake.folder / "project" / path
        added.write_text("# changed\n")
        try:
            assert (flake.evaluate(f"packages.{SYSTEM}", _OF_PACKAGES) == before) is same, path
        finally:
            added.unlink()
