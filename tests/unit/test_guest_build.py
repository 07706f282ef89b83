"""What makes the kernel and initial file system of virtual machines, from files that are given to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BUILDER = Path(__file__).parents[2] / "roles/sandbox/files/guest/build.py"
# By name, what each needs.
MODULES = {"virtio-pci": "virtio_ring", "virtio_ring": "", "9p": "", "virtio_net": "virtio_ring", "unused": ""}


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    folder = tmp_path / "modules/lib/modules/6.1/kernel"
    folder.mkdir(parents=True)
    for name, needs in MODULES.items():
        (folder / f"{name}.ko").write_bytes(b"\x7fELF of " + name.encode() + f"\0depends={needs}\0".encode())
    (tmp_path / "image").write_bytes(b"a kernel of an unknown form")
    (tmp_path / "busybox").write_bytes(b"\x7fELF of busybox")
    return [f"--{name}={tmp_path / name}" for name in ("image", "modules", "busybox")]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BUILDER), *words], capture_output=True, text=True, check=False)


def test_a_guest_of_given_files(tmp_path: Path, sources: list[str]) -> None:
    """No package is asked for; each module goes after what it needs, once, and none that nobody needs."""
    done = run(f"{tmp_path}/guest", *sources)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "guest/kernel").read_bytes() == b"a kernel of an unknown form"
    initrd = (tmp_path / "guest/initrd").read_bytes()
    assert b"/lib/virtio_ring.ko\n/lib/virtio_pci.ko\n/lib/9p.ko\n" in initrd
    # What is loaded by then is not loaded again.
    assert initrd.count(b"/lib/virtio_ring.ko\n") == 1
    assert b"\n/lib/virtio_net.ko\n" not in initrd
    assert b"/lib/virtio_net.ko\n" in initrd
    assert b"\x7fELF of busybox" in initrd
    assert b"unused" not in initrd


def test_some_of_them_are_not_enough(tmp_path: Path, sources: list[str]) -> None:
    done = run(f"{tmp_path}/guest", *sources[:2])
    assert done.returncode == 2
    assert "go together" in done.stderr
    assert not (tmp_path / "guest").exists()
