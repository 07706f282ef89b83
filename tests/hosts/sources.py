"""Where this machine takes packages from: what hosts may reach."""

from __future__ import annotations

import configparser
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path

from tests.fresh.fresh import Mirrors, npm_configuration, pip_configuration
from tests.hosts.layout import CACHE

_PORTS = {"http": 80, "https": 443}
# Where they are when nothing is configured. pip's index refers to the second for the files themselves.
_USUAL = (
    *("https://pypi.org", "https://files.pythonhosted.org", "https://registry.npmjs.org"),
    *("http://deb.debian.org", "http://security.debian.org"),
)


def mirrors() -> Mirrors:
    """Where Debian's packages come from."""
    return _apt()[0]


def places() -> list[str]:
    """HOST:PORT of all that apt, pip and npm take from."""
    urls = [*_USUAL, *_apt()[1], *_of_pip(pip_configuration()), *_of_npm(npm_configuration())]
    parts = [urllib.parse.urlsplit(url) for url in urls]
    return sorted({f"{each.hostname}:{each.port or _PORTS[each.scheme]}" for each in parts if each.scheme in _PORTS})


def _of_pip(configuration: str) -> list[str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(configuration)
    sections = [parser[name] for name in parser.sections()]
    configured = [value for section in sections for name, value in section.items() if "index" in name]
    asked = [os.environ.get(name, "") for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")]
    return [word for value in [*configured, *asked] for word in value.split()]


def _of_npm(configuration: str) -> list[str]:
    configured = re.findall(r"^\s*(?:\S+:)?registry\s*=\s*(\S+)", configuration, re.MULTILINE)
    return [*configured, os.environ.get("NPM_CONFIG_REGISTRY", "")]


def _apt() -> tuple[Mirrors, list[str]]:
    """Debian's mirrors, and all that apt takes from. apt takes a second to tell: the answer is kept, by its lists."""
    if not shutil.which("apt-get"):
        return Mirrors(), []
    lists = [
        path for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")) if path.is_file()
    ]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(lists))).hexdigest()[:16]
    kept = CACHE / f"apt-{digest}.json"
    if kept.exists():
        found = json.loads(kept.read_text(encoding="utf-8"))
        return Mirrors(**found["mirrors"]), found["urls"]
    made = Mirrors.of_this_machine()
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    urls = sorted(set(subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE).stdout.split()))
    # Before the first `apt-get update` it does not know which are Debian's.
    if made.archive:
        _keep(kept, json.dumps({"mirrors": dataclasses.asdict(made), "urls": urls}))
    return made, urls


def _keep(path: Path, text: str) -> None:
    """For its owner alone: there may be a password in a URL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.rename(path)
