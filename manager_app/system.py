# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the host does: sampled in the background, so that the figures have a past when somebody looks."""

from __future__ import annotations

import collections
import threading
import time

import psutil

_EVERY = 2.0  # seconds
_KEPT = 150  # samples: five minutes


class System:
    """Samples of the host's figures: CPU, memory, disk (the one with the registry), network, load."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._samples: collections.deque[dict[str, float]] = collections.deque(maxlen=_KEPT)
        self._stopped = threading.Event()
        self._traffic = psutil.net_io_counters()
        self._at = time.monotonic()
        psutil.cpu_percent()
        self._take()
        self._thread = threading.Thread(target=self._run, name="system", daemon=True)
        self._thread.start()

    def now(self) -> dict[str, float]:
        """The latest sample; rates are per second, since the sample before."""
        with self._lock:
            return dict(self._samples[-1])

    def history(self) -> dict[str, list[float]]:
        """The samples of the last minutes, oldest first, by figure."""
        with self._lock:
            samples = list(self._samples)
        return {name: [sample[name] for sample in samples] for name in samples[-1]}

    def close(self) -> None:
        """Take no more samples."""
        self._stopped.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY):
            self._take()

    def _take(self) -> None:
        memory, disk, traffic = psutil.virtual_memory(), self._disk(), psutil.net_io_counters()
        load, now = psutil.getloadavg(), time.monotonic()
        seconds = max(now - self._at, 0.001)
        sample = {
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": memory.percent,
            "memory_used_bytes": memory.total - memory.available,
            "memory_total_bytes": memory.total,
            "disk_percent": 100 * disk[0] / max(disk[1], 1),
            "disk_used_bytes": disk[0],
            "disk_total_bytes": disk[1],
            "net_sent_bytes_per_second": _rate(self._traffic, traffic, "bytes_sent", seconds),
            "net_received_bytes_per_second": _rate(self._traffic, traffic, "bytes_recv", seconds),
            "load_1": load[0],
            "load_5": load[1],
            "load_15": load[2],
            "cpus": psutil.cpu_count() or 1,
            "uptime_seconds": time.time() - psutil.boot_time(),
        }
        self._traffic, self._at = traffic, now
        with self._lock:
            self._samples.append(sample)

    def _disk(self) -> tuple[int, int]:
        """Used and all bytes of the file system of the registry, or of what is there of its path."""
        path = self._folder
        while True:
            try:
                found = psutil.disk_usage(path)
            except OSError:
                if path == "/":
                    return 0, 0
                path = path.rpartition("/")[0] or "/"
                continue
            return found.used, found.total


def _rate(before: object, after: object, name: str, seconds: float) -> float:
    # Some hosts have no network to count on.
    return max(0, getattr(after, name, 0) - getattr(before, name, 0)) / seconds
