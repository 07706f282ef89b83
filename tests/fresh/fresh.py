# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a newcomer does, on a machine that has nothing yet.

A minimal Debian tree is made once with debootstrap and kept. Each run enters a throw-away overlay of it with
systemd-nspawn (nothing is booted, the network is the machine's own), clones this checkout into it and runs make.
For `up` it runs twice as root, and twice as a user with sudo in a second overlay; the second time must change nothing.

How this machine reaches its package registries (mirror, proxies, certificates, pip's and npm's configuration) is
carried over; tokens are not. Ubuntu is not covered: its tree needs its own archive, which not every machine reaches.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
RELEASES = ("bookworm", "trixie")
PACKAGES = ("ca-certificates", "git", "make", "python3-venv", "sudo")
USER = "newcomer"
IN_NAMESPACE = "CLAUDE_SANDBOX_FRESH_INSIDE"
CARRIED_VARIABLES = (
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "NPM_CONFIG_REGISTRY"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_CERT", "PIP_DEFAULT_TIMEOUT"),
)
SECRET_LINE = re.compile(r"_auth|_password|token|//[^/\s]*@", re.IGNORECASE)
RECAP = re.compile(r"^\S+\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class FreshError(Exception):
    """Something that the person who runs this can act on."""


@dataclass(frozen=True)
class Mirrors:
    """Where this machine takes Debian from; empty where it is no Debian or says nothing."""

    archive: str = ""
    security: str = ""

    @classmethod
    def of_this_machine(cls) -> Mirrors:
        if not shutil.which("apt-get"):
            return cls()
        fields = "$(ORIGIN)|$(SUITE)|$(CODENAME)|$(REPO_URI)"
        lines = _output(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).splitlines()
        rows = [line.split("|") for line in lines if line.count("|") == 3]
        debian = [(codename, uri) for origin, _suite, codename, uri in rows if origin == "Debian"]
        security = [uri for codename, uri in debian if codename.endswith("-security")]
        archive = [uri for codename, uri in debian if "-" not in codename]
        return cls(archive=next(iter(archive), ""), security=next(iter(security), ""))

    def sources(self, release: str) -> str:
        lines = []
        if self.archive:
            lines += [f"deb {self.archive} {suite} main" for suite in (release, f"{release}-updates")]
        if self.security:
            lines.append(f"deb {self.security} {release}-security main")
        return "".join(f"{line}\n" for line in lines)


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE).stdout


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


def _cache_dir() -> Path:
    given = os.environ.get("CLAUDE_SANDBOX_FRESH_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "claude-sandbox-fresh"


def kept_tree(
    tree: Path,
    release: str,
    packages: Sequence[str],
    mirrors: Mirrors,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """A tree that is made once; under another name, so an interrupted debootstrap is never taken for one.

    `finish` completes a new tree before it gets its name.
    """
    tree.parent.mkdir(parents=True, exist_ok=True)
    with (tree.parent / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if tree.is_dir():
            return tree
        _say(f"debootstrap {release} into {tree} (once, about a minute)")
        with tempfile.TemporaryDirectory(prefix=f".{release}-", dir=tree.parent) as scratch:
            new, log = Path(scratch) / "tree", tree.parent / f"{release}.log"
            argv = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", release, str(new)]
            with log.open("w") as out:
                done = subprocess.run([*argv, *filter(None, [mirrors.archive])], stdout=out, stderr=out, check=False)
            if done.returncode:
                raise FreshError(f"debootstrap of {release} failed; its log is {log}")
            if finish:
                finish(new)
            new.rename(tree)
    return tree


def base_tree(release: str, mirrors: Mirrors) -> Path:
    """The kept tree of a release."""
    digest = hashlib.sha256(",".join(PACKAGES).encode()).hexdigest()[:8]
    return kept_tree(_cache_dir() / f"{release}-{digest}", release, PACKAGES, mirrors)


def _bundle(checkout: Path, target: Path, *, work_tree: bool) -> None:
    """A git bundle: it can be cloned by any user, whoever owns the checkout."""
    git = ["git", "-C", str(checkout)]
    if work_tree:
        git = ["git", "--git-dir", str(target.with_suffix(".git")), "--work-tree", str(checkout)]
        identity = ["-c", "user.name=fresh", "-c", "user.email=fresh@localhost", "-c", "commit.gpgsign=false"]
        for argv in (
            ["init", "-q", "--initial-branch=main"],
            ["add", "-A"],
            [*identity, "commit", "-q", "-m", "work tree"],
        ):
            subprocess.run([*git, *argv], check=True, cwd=checkout)
    subprocess.run([*git, "bundle", "create", "-q", str(target), "HEAD"], check=True)


def _without_secrets(path: Path) -> str:
    lines = path.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not SECRET_LINE.search(line))


def own_certificates() -> list[Path]:
    """The authorities that this machine trusts besides the usual ones."""
    return sorted(Path("/usr/local/share/ca-certificates").glob("**/*.crt"))


def carry_certificates(root: Path) -> None:
    """Put this machine's own authorities into a tree; update-ca-certificates has to follow there."""
    for certificate in own_certificates():
        shutil.copy(certificate, root / "usr/local/share/ca-certificates" / certificate.name)


def pip_configuration() -> str:
    """This machine's, without secrets; empty where there is none."""
    candidates = (Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf", Path("/etc/pip.conf"))
    return next((_without_secrets(path) for path in candidates if path.is_file()), "")


def npm_configuration() -> str:
    """This machine's, without secrets; empty where there is none."""
    npmrc = Path.home() / ".npmrc"
    return _without_secrets(npmrc) if npmrc.is_file() else ""


def carry_sources(root: Path, release: str, mirrors: Mirrors) -> None:
    """Let apt, pip and npm of a tree take from where they do on this machine."""
    if mirrors.archive:
        (root / "etc/apt/sources.list").write_text(mirrors.sources(release))
    if shutil.which("apt-config"):
        wanted = ("Acquire::http", "Acquire::Check-")
        lines = [line for line in _output(["apt-config", "dump"]).splitlines() if line.startswith(wanted)]
        kept = [line for line in lines if not SECRET_LINE.search(line)]
        (root / "etc/apt/apt.conf.d/90fresh").write_text("".join(f"{line}\n" for line in kept))
    if pip := pip_configuration():
        (root / "etc/pip.conf").write_text(pip)
    if npm := npm_configuration():
        for home in ("root", "etc/skel"):
            (root / home / ".npmrc").write_text(npm)


def _carry_over(root: Path, release: str, mirrors: Mirrors, resolv_conf: str) -> None:
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text(resolv_conf)
    shutil.copy("/etc/hosts", root / "etc/hosts")
    (root / "etc/hostname").write_text("fresh\n")
    with (root / "etc/hosts").open("a") as hosts:
        hosts.write("\n127.0.0.1 localhost fresh\n")
    carry_certificates(root)
    carry_sources(root, release, mirrors)


@contextlib.contextmanager
def overlay(tree: Path) -> Iterator[Path]:
    """A writable copy of the tree in memory. Only this mount namespace sees it, so nothing can stay behind."""
    with tempfile.TemporaryDirectory(prefix="claude-sandbox-fresh-") as scratch:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700,size=90%", "fresh", scratch], check=True)
        upper, work, root = (Path(scratch) / name for name in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir()
        upper.chmod(0o755)
        options = f"lowerdir={tree},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "fresh", str(root)], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", str(root)], check=True)
            subprocess.run(["umount", scratch], check=True)


def enter(root: Path, script: str, arguments: tuple[str, ...] = ()) -> int:
    """Run a shell script as the tree's root; whatever it leaves running ends with it."""
    carried = [f"--setenv={name}={os.environ[name]}" for name in CARRIED_VARIABLES if name in os.environ]
    argv = ["systemd-nspawn", "--quiet", f"--directory={root}", f"--machine=fresh-{os.getpid()}", "--as-pid2"]
    argv += ["--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]
    argv += ["--console=pipe", *carried, "/bin/bash", "-euo", "pipefail", "-c", script, "fresh", *arguments]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode


PREPARE = f"""
update-ca-certificates >/dev/null 2>&1
apt-get -qq update
useradd --create-home --shell /bin/bash {USER}
echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}
"""


def _make(targets: list[str], user: str) -> str:
    """The script that clones and makes; each run's output is also kept in /fresh."""
    home = "/root" if user == "root" else f"/home/{user}"
    prefix = "" if user == "root" else f"runuser -u {user} -- "
    lines = [
        f"cd {home}",
        f"export HOME={home}",
        f"{prefix}git -c advice.detachedHead=false -c init.defaultBranch=main clone -q /fresh/checkout.bundle clone",
        "cd clone",
    ]
    for target in targets:
        for turn in (1, 2) if target == "up" else (1,):
            quoted = shlex.quote(target)
            lines.append(f"echo '== {user}: make {target}, run {turn}'")
            lines.append(f"{prefix}make {quoted} 2>&1 | tee /fresh/{quoted}-{turn}.log")
    return "\n".join(lines)


def _unchanged(log: str) -> None:
    recaps = RECAP.findall(log)
    if not recaps:
        raise FreshError("the second run printed no recap of a play")
    if any(changed != "0" or unreachable != "0" or failed != "0" for changed, unreachable, failed in recaps):
        tasks = re.findall(r"^TASK \[(.*)\].*\n(?:.*\n)??changed:", log, re.MULTILINE)
        raise FreshError(f"the second run was to change nothing, but did: {', '.join(tasks) or recaps}")


@dataclass(frozen=True)
class Fresh:
    release: str
    mirrors: Mirrors
    resolv_conf: str
    work_tree: bool

    @contextlib.contextmanager
    def machine(self) -> Iterator[Path]:
        with overlay(base_tree(self.release, self.mirrors)) as root:
            (root / "fresh").mkdir()
            (root / "fresh").chmod(0o755)
            _bundle(CHECKOUT, root / "fresh/checkout.bundle", work_tree=self.work_tree)
            shutil.rmtree(root / "fresh/checkout.git", ignore_errors=True)
            _carry_over(root, self.release, self.mirrors, self.resolv_conf)
            if enter(root, PREPARE):
                raise FreshError("the tree could not be prepared: see the lines above")
            yield root

    def make(self, targets: list[str], user: str) -> None:
        started = time.monotonic()
        with self.machine() as root:
            if enter(root, _make(targets, user)):
                raise FreshError(f"{self.release}, as {user}: make {' '.join(targets)} failed")
            if "up" in targets:
                _unchanged((root / "fresh/up-2.log").read_text())
        _say(f"{self.release}, as {user}: make {' '.join(targets)} passed in {time.monotonic() - started:.0f} s")

    def execute(self, script: str) -> int:
        with self.machine() as root:
            return enter(root, script)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/fresh/run", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("release", choices=RELEASES)
    parser.add_argument("targets", nargs="*", default=["up"], metavar="make-target", help="default: up")
    parser.add_argument("--as", dest="users", action="append", choices=("root", "user"), help="default: both, for `up`")
    parser.add_argument("--work-tree", action="store_true", help="take what is not committed yet too")
    parser.add_argument("--exec", metavar="SCRIPT", help="run this shell script in the tree instead of make")
    return parser.parse_args()


def _preflight() -> None:
    if os.geteuid():
        raise FreshError("this makes mounts and containers: run it as root")
    programs = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "git": "git"}
    missing = [package for program, package in programs.items() if not shutil.which(program)]
    if missing:
        raise FreshError(f"missing here: apt-get install {' '.join(missing)}")


def main() -> int:
    options = _arguments()
    _preflight()
    if IN_NAMESPACE not in os.environ:
        os.environ[IN_NAMESPACE] = "1"
        argv = ["unshare", "--mount", "--propagation=private", sys.executable, __file__, *sys.argv[1:]]
        os.execvp(argv[0], argv)
    resolv_conf = Path("/etc/resolv.conf").read_text()
    # nspawn insists on a tmpfs here; only this namespace sees it.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "fresh", "/run"], check=True)
    fresh = Fresh(options.release, Mirrors.of_this_machine(), resolv_conf, options.work_tree)
    if options.exec is not None:
        return fresh.execute(options.exec)
    users = options.users or (["root", "user"] if options.targets == ["up"] else ["root"])
    for user in users:
        fresh.make(options.targets, "root" if user == "root" else USER)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FreshError as error:
        sys.exit(f"tests/fresh: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"tests/fresh: {shlex.join(map(str, error.cmd))} failed with {error.returncode}")
