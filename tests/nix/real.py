"""Evaluate the flake against a real nixpkgs: python -m tests.nix.real NIXPKGS [--claude-code FOLDER].

NIXPKGS is a tree of it on this machine. Nothing is built or fetched. Takes the machine's own Nix; where there is none,
that of the tree which the tests keep. Prints a line for each thing, and ends with 1 where one cannot be evaluated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.nix import stubs
from tests.nix.flake import SYSTEMS
from tests.nix.tree import Nix

_SECONDS = 1800.0
_UNITS = {
    "claude-sandbox-manager.service": ("manager", "services.claude-sandbox-manager.enable = true;"),
    "user@.service": ("default", "services.claude-sandbox.enable = true;"),
}
_CLAUDE_CODE = """\
{
  outputs = { ... }: {
    packages = builtins.listToAttrs (map (system: {
      name = system;
      value.default = derivation { name = "claude-code-0"; inherit system; builder = "/bin/sh"; };
    }) [ "x86_64-linux" "aarch64-linux" ]);
  };
}
"""


def main() -> int:
    """The table; whether all could be evaluated."""
    parser = argparse.ArgumentParser(prog="python -m tests.nix.real", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("nixpkgs", type=Path)
    parser.add_argument("--claude-code", type=Path, help="its flake; default: a stand-in")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cst-nix-") as temporary:
        folder = Path(temporary)
        stubs.copy_project(folder / "project")
        own = asked.claude_code is None
        claude_code = (folder / "claude-code") if own else asked.claude_code.resolve()
        if own:
            claude_code.mkdir()
            (claude_code / "flake.nix").write_text(_CLAUDE_CODE)
        nixpkgs = asked.nixpkgs.resolve()
        evaluator = _Evaluator(folder, nixpkgs, claude_code)
        failed = sum(not evaluator.line(*each) for each in evaluator.questions())
    print(f"{failed} could not be evaluated" if failed else "all were evaluated")
    return 1 if failed else 0


class _Evaluator:
    def __init__(self, folder: Path, nixpkgs: Path, claude_code: Path) -> None:
        self._reference = f"path:{folder}/project"
        self._nix = None if shutil.which("nix") else Nix(folder / "store", [folder, nixpkgs, claude_code])
        # What is in the store is not copied there again, nor its hash computed.
        locked = self._run(["flake", "metadata", "--json", f"path:{nixpkgs}"])
        if locked.returncode:
            sys.exit(f"{nixpkgs} is no flake:\n{locked.stderr}")
        self._nixpkgs = f"path:{json.loads(locked.stdout)['path']}"
        self._inputs = stubs.inputs(self._nixpkgs, f"path:{claude_code}")

    def questions(self) -> Iterator[tuple[str, list[str]]]:
        """What is asked, by its name in the table."""
        for system in SYSTEMS:
            for kind in ("packages", "checks", "devShells"):
                for name in self._names(f"{kind}.{system}"):
                    yield f"{kind}.{system}.{name}", self._eval(f"{kind}.{system}.{name}", "each: each.drvPath")
            for unit, (module, enabled) in _UNITS.items():
                yield f"{unit} ({system})", self._unit(system, module, enabled, unit)
        yield "nix flake check", ["flake", "check", "--no-build", "--all-systems", self._reference, *self._inputs]

    def line(self, name: str, arguments: Sequence[str]) -> bool:
        """Ask it, and say what came of it."""
        started = time.monotonic()
        done = self._run(arguments)
        found = (done.stdout.strip().splitlines() or ["ok"])[-1] if done.returncode == 0 else "FAILED"
        print(f"{name:44}  {time.monotonic() - started:6.1f} s  {found[:120]}", flush=True)
        if done.returncode:
            print("".join(f"    {each}\n" for each in done.stderr.strip().splitlines()[-12:]), flush=True)
        return done.returncode == 0

    def _names(self, output: str) -> list[str]:
        done = self._run(
            ["eval", "--json", f"{self._reference}#{output}", "--apply", "builtins.attrNames", *self._inputs]
        )
        return list(json.loads(done.stdout)) if done.returncode == 0 else ["*"]

    def _eval(self, output: str, function: str) -> list[str]:
        return ["eval", "--raw", f"{self._reference}#{output}", "--apply", function, *self._inputs]

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        if self._nix is not None:
            return self._nix.run("nix", *arguments, timeout=_SECONDS)
        features = ["--extra-experimental-features", "nix-command flakes", "--offline"]
        return subprocess.run(
            ["nix", *features, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def _unit(self, system: str, module: str, enabled: str, unit: str) -> list[str]:
        """The length of a system's unit; its text is evaluated for it."""
        function = f"""module: toString (builtins.stringLength ((builtins.getFlake "{self._nixpkgs}").lib.nixosSystem {{
          modules = [
            module
            {{
              nixpkgs.hostPlatform = "{system}";
              boot.loader.grub.enable = false;
              fileSystems."/" = {{ device = "none"; fsType = "tmpfs"; }};
              system.stateVersion = "26.11";
              {enabled}
            }}
          ];
        }}).config.systemd.units."{unit}".text)"""
        return ["eval", "--impure", "--raw", *self._eval(f"nixosModules.{module}", function)[2:]]


if __name__ == "__main__":
    sys.exit(main())
