# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the kernel and the initial file system of the backend vm, from Debian's packages and without root.

Nothing is installed: the packages are fetched and taken apart. Needs Python 3.9, apt-get, dpkg-deb, and nothing else;
not even these where kernel, modules and busybox are given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
# What is loaded when, by the kernel's names; what these need is found and loaded before them.
MODULES = {
    "base": ("virtio_pci", "virtio_console", "9pnet_virtio", "9p"),
    "net": ("virtio_net",),
    "screen": ("bochs",),
}
KERNEL_PACKAGES = {"x86_64": "linux-image-amd64", "aarch64": "linux-image-arm64"}
BUSYBOX_PACKAGE = "busybox-static"
XZ_MAGIC = b"\xfd7zXZ\0"
ELF_MAGIC = b"\x7fELF"
SIGNED, SIGNATURE_STRUCT = b"~Module signature appended~\n", 12
INPUTS = ("build.py", "init")


def main() -> None:
    """Build into a directory, unless what is there was made from the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where kernel, initrd and manifest.json are put")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where something is to be made")
    given = parser.add_argument_group("in place of Debian's packages, all three")
    given.add_argument("--image", type=Path, help="the kernel")
    given.add_argument("--modules", type=Path, help="a tree with its modules")
    given.add_argument("--busybox", type=Path, help="one that loads nothing")
    arguments = parser.parse_args()
    sources = (arguments.image, arguments.modules, arguments.busybox)
    if any(sources):
        if not all(sources):
            parser.error("--image, --modules and --busybox go together")
        with tempfile.TemporaryDirectory() as work:
            build(Path(work), Sources(*sources), {}, arguments.directory)
        return
    inputs = wanted()
    if manifest(arguments.directory).get("inputs") == inputs:
        return
    if arguments.check:
        sys.exit(1)
    with tempfile.TemporaryDirectory() as work:
        build(Path(work), of_debian(Path(work)), inputs, arguments.directory)


def wanted() -> dict[str, str]:
    """What the guest is made from: versions of packages, digests of our own files."""
    found = {name: hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in INPUTS}
    for package in (kernel_package(), BUSYBOX_PACKAGE):
        found[package] = field(package, "Version")
    return found


def manifest(directory: Path) -> dict[str, Any]:
    """What the guest in a directory was made from; empty where there is none."""
    try:
        content = json.loads((directory / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    complete = all((directory / name).is_file() for name in ("kernel", "initrd"))
    return content if isinstance(content, dict) and complete else {}


def kernel_package() -> str:
    """The package with this machine's generic kernel, of which the linux-image packages are only pointers to."""
    pointer = KERNEL_PACKAGES.get(os.uname().machine)
    if pointer is None:
        sys.exit(f"There is no kernel known for {os.uname().machine}.")
    names = re.findall(r"linux-image-[0-9][\w.+-]*", field(pointer, "Depends"))
    if not names:
        sys.exit(f"The package {pointer} depends on no kernel.")
    return str(names[0])


def field(package: str, name: str) -> str:
    """A field of the newest version of a package."""
    text = run("apt-cache", "show", "--no-all-versions", package)
    found = re.search(rf"^{name}: (.*)$", text, re.MULTILINE)
    if found is None:
        sys.exit(f"apt knows no {name} of {package}: run apt-get update.")
    return found[1]


def run(*argv: str, cwd: Path | None = None) -> str:
    """What a program prints; its own words, and the end, where it fails."""
    done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, encoding="utf-8", errors="replace", check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)} failed.")
    return done.stdout


class Sources(NamedTuple):
    """What a guest is made from. modules: a tree with them somewhere in it."""

    image: Path
    modules: Path
    busybox: Path


def of_debian(work: Path) -> Sources:
    """The packages, unpacked in a work directory."""
    kernel, busybox = (unpacked(work, name) for name in (kernel_package(), BUSYBOX_PACKAGE))
    return Sources(next((kernel / "boot").glob("vmlinuz-*")), kernel, next(busybox.glob("**/bin/busybox")))


def build(work: Path, sources: Sources, inputs: dict[str, str], directory: Path) -> None:
    """Make all in a work directory, and move it to its place at the end."""
    (work / "kernel").write_bytes(uncompressed(sources.image.read_bytes()))
    archive = Archive()
    for path in ("bin", "dev", "proc", "sys", "new", "lib"):
        archive.folder(path)
    # The kernel opens it for the first program before anything can be mounted.
    archive.device("dev/console", 5, 1)
    archive.file("init", b"#!/bin/busybox sh\n" + (HERE / "init").read_bytes(), 0o755)
    archive.file("bin/busybox", sources.busybox.read_bytes(), 0o755)
    modules = Modules(sources.modules)
    base = modules.order(MODULES["base"])
    for group, names in MODULES.items():
        order = base if group == "base" else [name for name in modules.order(names) if name not in base]
        archive.file(f"lib/{group}", "".join(f"/lib/{name}.ko\n" for name in order).encode())
    for name in modules.order(name for names in MODULES.values() for name in names):
        archive.file(f"lib/{name}.ko", modules.content(name))
    (work / "initrd").write_bytes(archive.finished())
    (work / "manifest.json").write_text(json.dumps({"inputs": inputs}, indent=1))
    directory.mkdir(parents=True, exist_ok=True)
    # The manifest last: what is half moved has none that fits.
    for name in ("kernel", "initrd", "manifest.json"):
        shutil.copyfile(work / name, directory / f".{name}.new")
        (directory / f".{name}.new").chmod(0o644)
        os.replace(directory / f".{name}.new", directory / name)


def unpacked(work: Path, package: str) -> Path:
    """The files of a package, under the work directory."""
    folder = work / f"{package}.deb"
    folder.mkdir()
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=folder)
    tree = work / package
    run("dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(tree))
    return tree


def uncompressed(image: bytes) -> bytes:
    """The kernel as an ELF file, which QEMU starts directly; the image itself where it is packed in a way unknown here.

    Under emulation a kernel takes two seconds to unpack itself; here it takes a tenth of one, once.
    """
    start = image.find(XZ_MAGIC)
    while start >= 0:
        try:
            content = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(image[start:])
        except lzma.LZMAError:
            content = b""
        if content.startswith(ELF_MAGIC):
            return stripped(content)
        start = image.find(XZ_MAGIC, start + 1)
    return image


def stripped(content: bytes) -> bytes:
    """A 64-bit ELF file without what follows its segments: sections are for debuggers and linkers."""
    table, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
    end = table + size * count
    for number in range(count):
        offset, _address, _physical, length = struct.unpack_from("<QQQQ", content, table + size * number + 8)
        end = max(end, offset + length)
    header = bytearray(content[:end])
    struct.pack_into("<Q", header, 40, 0)
    struct.pack_into("<HHH", header, 58, 0, 0, 0)
    return bytes(header)


def unsigned(module: bytes) -> bytes:
    """A module without its signature: apt has checked where it is from, and an emulated processor takes long for it."""
    if not module.endswith(SIGNED):
        return module
    # struct module_signature ends with the length of what precedes it.
    length = struct.unpack(">I", module[-len(SIGNED) - 4 : -len(SIGNED)])[0]
    return module[: -len(SIGNED) - SIGNATURE_STRUCT - length]


class Modules:
    """The modules of a kernel package, by name."""

    def __init__(self, tree: Path) -> None:
        self._files = {path.name.split(".ko")[0].replace("-", "_"): path for path in tree.glob("**/*.ko*")}

    def content(self, name: str) -> bytes:
        """The module itself, unpacked."""
        path = self._files[name]
        content = path.read_bytes()
        return unsigned(lzma.decompress(content) if path.suffix == ".xz" else content)

    def order(self, names: Iterable[str]) -> list[str]:
        """The modules with all that they need, each after what it needs; without those built into the kernel."""
        found: dict[str, None] = {}
        for name in names:
            self._add(name, found)
        return list(found)

    def _add(self, name: str, found: dict[str, None]) -> None:
        if name in found or name not in self._files:
            return
        needs = re.search(rb"\0depends=([^\0]*)\0", self.content(name))
        for needed in needs[1].decode().replace("-", "_").split(",") if needs else ():
            self._add(needed, found)
        found[name] = None


class Archive:
    """An initial file system: a cpio archive in the format `newc`, owned by root, without a time in it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def folder(self, path: str) -> None:
        """Add a directory."""
        self._add(path, stat.S_IFDIR | 0o755)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        self._add(path, stat.S_IFREG | mode, content)

    def device(self, path: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def finished(self) -> bytes:
        """The archive's bytes."""
        self._add("TRAILER!!!", 0)
        return b"".join(self._parts)

    def _add(self, path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        name = path.encode() + b"\0"
        numbers = (len(self._parts) + 1, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self._parts.append(padded(header) + padded(content))


def padded(content: bytes) -> bytes:
    """Up to the next multiple of four bytes."""
    return content + b"\0" * (-len(content) % 4)


if __name__ == "__main__":
    main()
