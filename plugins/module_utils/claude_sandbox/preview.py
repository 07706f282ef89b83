# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a sandbox would get of the host, in words, before there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from . import claude, grants, lifecycle, toolchain
from .host import Account, Host
from .registry import Record, Registry
from .spec import Spec

_NAME = "preview"


def of(host: Host, spec: Spec, owner: Account, registry: Registry) -> dict[str, Any]:
    """What is given and what is skipped, each with what it means; nothing is made for it.

    `given` are grants with their words and what of the host is mounted; `skipped` those that were asked for in vain.
    """
    record = Record(_NAME, f"{registry.folder}/{_NAME}", spec=spec)
    task = lifecycle.Start(record, owner, f"{record.data}/run", registry.store_of(spec, owner), {}, resumes=False)
    ways = lifecycle.backend(spec)
    own = ways.own_grants(spec, toolchain.find(spec))
    place = dataclasses.replace(lifecycle.place(host, task, None), guest_has=own)
    # The display is started with the sandbox; that it can be is a question for `problems`.
    asked = dataclasses.replace(spec, grants={**spec.grants, "display": False}) if spec.granted("display") else spec
    made = (lifecycle.host_cookie(task.folder), f"{owner.home}/.claude/{claude.CREDENTIALS}")
    granted = grants.resolve(asked, place, _exists(made))
    given = [*granted.given, *(["display"] if spec.granted("display") else [])]
    return {
        "project_dir": spec.project_dir,
        "backend": spec.backend,
        "network": spec.network,
        "given": [_given(name, place) for name in grants.TABLE if name in given],
        "skipped": [{"grant": name, "why": why} for name, why in granted.skipped.items()],
        "withheld": [
            {"grant": name, "words": grant.words} for name, grant in grants.TABLE.items() if not spec.granted(name)
        ],
        "mounts": [dict(mount.__dict__) for mount in spec.mounts],
    }


def _given(name: str, place: grants.Owner) -> dict[str, Any]:
    paths = [path for path in grants.paths(name, place) if lifecycle.readable(path)]
    return {"grant": name, "words": grants.TABLE[name].words, "paths": paths}


def _exists(made: Sequence[str]) -> grants.Exists:
    """What is there now, or is made for the sandbox."""
    return lambda path: path in made or lifecycle.readable(path)
