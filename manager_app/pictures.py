# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Frames of screens as pictures, made once for all who look."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Collection

from claude_sandbox.registry import Record

_KEPT_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a screen, or none where whoever asks has it already. mark: of what is shown (see watch.Seen)."""

    mark: str
    kind: str
    etag: str
    content: bytes


class Pictures:
    """Takes pictures, and keeps the latest ones. May be asked from any thread."""

    def __init__(self, take: Callable[[Record, int | None, str, list[str]], tuple[str, bytes]]) -> None:
        self._take = take
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[tuple[str, str], Picture] = collections.OrderedDict()

    def get(self, record: Record, width: int | None, kind: str, known: Collection[str]) -> Picture:
        """What the screen shows now. known: the etags of the pictures that whoever asks has. Raises SandboxError."""
        suffix = f"-{width or 'full'}-{kind}"
        with self._lock:
            kept = [key[1] for key in self._kept if key[0] == record.id]
        had = [etag for etag in {*known, *kept} if etag.endswith(suffix)]
        mark, content = self._take(record, width, kind, [etag.removesuffix(suffix) for etag in had])
        etag = mark + suffix
        if content:
            picture = Picture(mark, kind, etag, content)
            self._keep(record.id, picture)
            return picture
        with self._lock:
            found = self._kept.get((record.id, etag))
        return found or Picture(mark, kind, etag, b"")

    def _keep(self, identity: str, picture: Picture) -> None:
        with self._lock:
            self._kept[identity, picture.etag] = picture
            self._kept.move_to_end((identity, picture.etag))
            while sum(len(each.content) for each in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
