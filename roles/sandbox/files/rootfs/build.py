# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make a tree of programs for sandboxes that shall not see the host's own, with mmdebstrap and as root.

It is Debian of the host's own release, from the host's own mirrors, and Claude Code as the host has it. What is there
stays until the new tree is whole, and is made again only when what it is made from has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "bash",
    "build-essential",
    "ca-certificates",
    "chromium",
    "curl",
    "fd-find",
    "file",
    "fonts-dejavu-core",
    "fonts-liberation",
    "fonts-noto-color-emoji",
    "gh",
    "git",
    "iproute2",
    "jq",
    "less",
    "nano",
    "nodejs",
    "openssh-client",
    "procps",
    "python3",
    "python3-pip",
    "python3-venv",
    "qemu-guest-agent",
    "ripgrep",
    "rsync",
    "tmux",
    "unzip",
    "util-linux",
    "vim-tiny",
    "xauth",
    "xserver-xorg-core",
    "xz-utils",
)
CLAUDE = "usr/local/bin/claude"
MANIFEST = "manifest.json"
# Only what is under these is ever seen from a sandbox.
NOT_NEEDED = ("boot", "var/cache/apt", "var/lib/apt/lists")


def main() -> None:
    """Build into a directory, unless what is there was made from the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the tree is put")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where something is to be made")
    parser.add_argument("--packages", default=",".join(PACKAGES), help="Debian's packages, with commas between them")
    arguments = parser.parse_args()
    directory = arguments.directory.absolute()
    inputs = wanted(sorted(set(arguments.packages.split(","))))
    if made_from(directory) == inputs:
        return
    if arguments.check:
        sys.exit(1)
    if os.geteuid() != 0:
        sys.exit("Run this as root: the tree's files are root's.")
    build(directory, inputs)


def wanted(packages: list[str]) -> dict[str, Any]:
    """What the tree is made from."""
    program = host_claude()
    return {
        "builder": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "sources": sources(),
        "packages": packages,
        "claude": str(program) if program else "",
    }


def made_from(directory: Path) -> Any:
    """What the tree in a directory was made from; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((directory / MANIFEST).read_bytes())
    return None


def sources() -> list[str]:
    """Where this host takes Debian from, as lines of a sources.list: the release, what is newer, what is safer."""
    form = "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(CREATED_BY)|$(REPO_URI)|$(SIGNED_BY)"
    found = []
    for line in run("apt-get", "indextargets", "--format", form).splitlines():
        origin, codename, component, kind, address, signed_by = line.split("|", 5)
        if (origin, component, kind) == ("Debian", "main", "Packages") and "backports" not in codename:
            key = f"[signed-by={signed_by}] " if signed_by.startswith("/") else ""
            found.append(f"deb {key}{address} {codename} main")
    if not found:
        sys.exit("apt takes nothing from a Debian archive: only Debian hosts can make the tree. Run apt-get update.")
    return sorted(found)


def host_claude() -> Path | None:
    """The host's Claude Code, where it has a program that runs without an installation around it."""
    found = shutil.which("claude", path="/usr/local/bin:/usr/bin")
    if found is None:
        return None
    program = Path(found).resolve()
    with program.open("rb") as file:
        return program if file.read(4) == b"\x7fELF" else None


def run(*argv: str) -> str:
    """What a program prints; the end, where it fails: its own words are on the terminal."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, encoding="utf-8", errors="replace", check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:])
        sys.exit(f"{argv[0]} failed.")
    return done.stdout


def build(directory: Path, inputs: dict[str, Any]) -> None:
    """Make the tree beside its place, and put it there whole."""
    draft = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    os.umask(0o022)
    try:
        include = f"--include={','.join(inputs['packages'])}"
        suite = min(line.split()[-2] for line in inputs["sources"])
        # How the host's apt reaches its mirrors (proxies, certificates) is what reaches them here.
        settings = [f"--aptopt={path}" for path in sorted(Path("/etc/apt/apt.conf.d").glob("*")) if path.is_file()]
        run("mmdebstrap", "--quiet", "--variant=essential", include, *settings, suite, str(draft), *inputs["sources"])
        if inputs["claude"]:
            (draft / CLAUDE).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(inputs["claude"], draft / CLAUDE)
            (draft / CLAUDE).chmod(0o755)
        for name in NOT_NEEDED:
            shutil.rmtree(draft / name, ignore_errors=True)
        (draft / MANIFEST).write_text(json.dumps(inputs, indent=1))
        draft.chmod(0o755)
        exchange(draft, directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def exchange(draft: Path, directory: Path) -> None:
    """Put a directory in the place of another; sandboxes that run keep what they have mounted."""
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    draft.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    main()
