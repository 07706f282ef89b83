# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sandbox of every host as a host of the inventory.

The hosts are asked the way in which the connection plugin enters sandboxes: by each host's own connection plugin, which
carries the engine there. So what the inventory finds can be entered, and nothing needs to be installed. Running the
module claude_sandbox_info instead, by a task queue of its own or a child process, would need a play, a callback and its
output parsed, and take several times as long; it would not come by the same account and the same Python either.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: sandboxes
short_description: Sandboxes as hosts
version_added: 0.1.0
author:
  - claude_code.nix_sandbox contributors (@claude-code)
description:
  - Asks hosts for their sandboxes, and makes each sandbox a host of the inventory, which the connection plugin
    P(claude_code.nix_sandbox.sandbox#connection) can enter.
  - The hosts are those of the sources that come before this one, so give this one last.
  - What a host says is untrusted. It is never a template, no matter where it is used; it cannot take the name of
    anything that the inventory has, nor set a variable of anything but its own sandboxes.
  - Each sandbox is in the group C(sandboxes) and has the variables C(sandbox_name), C(sandbox_host), C(sandbox_id),
    C(sandbox_status), C(sandbox_backend), C(sandbox_project_dir), C(sandbox_user), C(sandbox_network),
    C(sandbox_toolchain), C(sandbox_created_at), C(sandbox_started_at), C(sandbox_stopped_at), C(sandbox_exit_code) and
    C(sandbox_reason), each as M(claude_code.nix_sandbox.claude_sandbox) returns it.
  - The name of the file has to end in C(sandboxes.yml) or C(sandboxes.yaml).
notes:
  - Passwords that are asked for by C(-k) or C(-K) are not known to inventory plugins. Have keys, or set variables.
  - Of group and host variables those of the inventory and of the folders beside its sources are known, and not those
    beside a playbook.
requirements:
  - Python 3.11 or newer on the hosts
options:
  plugin:
    description: That this file is for this plugin.
    type: str
    required: true
    choices: [claude_code.nix_sandbox.sandboxes]
  hosts:
    description:
      - The hosts to ask. Names of hosts and groups, or patterns with C(*), C(?) and C([]); what follows a C(!) is left
        out. C(localhost) need not be in the inventory.
      - A mapping from names to variables adds these hosts to the inventory, in the group C(sandbox_hosts), and asks
        them.
    type: raw
    default: [all]
  state_dir:
    description: The directory of the registry on the hosts. It can be a template of the host's variables.
    type: str
  become_user:
    description:
      - The account that is asked for its sandboxes, where it is not the one that logs in; see the connection plugin's
        option. It can be a template of the host's variables.
    type: str
  hostname:
    description:
      - What the sandbox is called in the inventory, as an expression of its variables.
      - Two hosts can have sandboxes of one name. Of two with the same name here, the second is left out with a warning.
    type: str
    default: sandbox_name ~ '@' ~ sandbox_host
  default_groups:
    description:
      - Whether to make groups C(sandbox_status_running), C(sandbox_backend_vm), C(sandbox_host_NAME) and
        C(sandbox_project_PATH), where all but letters and digits of the name and the path has become C(_).
    type: bool
    default: true
  strict_hosts:
    description: Whether a host that does not answer is an error. Otherwise it is a warning.
    type: bool
    default: false
  timeout:
    description: How many seconds a host has to answer.
    type: float
    default: 30
  forks:
    description: How many hosts are asked at a time.
    type: int
    default: 10
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
"""

EXAMPLES = r"""
# my.sandboxes.yml, used by: ansible-inventory -i hosts.yml -i my.sandboxes.yml --graph
plugin: claude_code.nix_sandbox.sandboxes
hosts:
  - sandbox_hosts
  - "!retired*"
keyed_groups:
  - key: sandbox_user
    prefix: of
compose:
  ansible_python_interpreter: "'/usr/bin/python3'"

# Those of this machine, for the account that they belong to:
# plugin: claude_code.nix_sandbox.sandboxes
# hosts: localhost
# become_user: alice
# hostname: sandbox_name
"""

import contextlib
import fnmatch
import functools
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from ansible import constants
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.inventory.group import to_safe_group_name
from ansible.inventory.helpers import get_group_vars
from ansible.playbook.play_context import PlayContext
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.display import Display
from ansible.utils.vars import combine_vars
from ansible.vars.hostvars import HostVarsVars
from ansible.vars.plugins import get_vars_from_inventory_sources

from ansible_collections.claude_code.nix_sandbox.plugins.plugin_utils.asking import ask_all
from ansible_collections.claude_code.nix_sandbox.plugins.plugin_utils.carrier import CONNECTION, Access, Carrier

_ENDINGS = ("sandboxes.yml", "sandboxes.yaml")
_ALL = "sandboxes"
_HOSTS = "sandbox_hosts"
_NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
_STATUSES = ("running", "stopped", "dead", "unreadable")
_BACKENDS = ("bubblewrap", "container", "vm", None)
_OF_ACCESS = ("become_user", "state_dir", "python", "engine_dir")
# With its kinds; what is of another is not believed.
_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "status"), (str,)),
    **dict.fromkeys(
        ("id", "backend", "project_dir", "user", "toolchain", "created_at", "started_at", "stopped_at", "reason"),
        (str, type(None)),
    ),
    "network": (bool, type(None)),
    "exit_code": (int, type(None)),
}
_TEXT_LIMIT = 4096  # characters, as many as a path can have
_MOST_SANDBOXES = 10_000  # of one host
_MOST_WARNINGS = 5  # of one host
_GROUP_LIMIT = 80  # characters
# What a pattern of hosts, or a shell that is given one, would read as something else.
_UNUSABLE = re.compile(r"[\s,:&!*?\[\]{}()<>|;$`'\"\\/#]")

# A host's variables, each templated when it is looked at, and how its sandboxes are reached.
_Asked: TypeAlias = tuple[Mapping[str, Any], Access]

display = Display()


def group_name(name: str) -> str:
    """A name as one of a group; different long ones stay different."""
    safe = str(to_safe_group_name(name, force=True, silent=True))
    safe = re.sub(r"[^A-Za-z0-9_]", "_", safe)
    if len(safe) <= _GROUP_LIMIT:
        return safe
    return f"{safe[: _GROUP_LIMIT - 9]}_{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def believed(view: Any, host: str) -> dict[str, Any]:
    """The variables of a sandbox, from what its host says. Raises ValueError where that cannot be."""
    if not isinstance(view, dict):
        raise ValueError("what it says of a sandbox is no mapping")
    found: dict[str, Any] = {}
    for field, kinds in _FIELDS.items():
        value = view.get(field)
        if type(value) not in kinds:
            raise ValueError(f"{field} of a sandbox is of another kind")
        if isinstance(value, str):
            _check_text(field, value)
        found[f"sandbox_{field}"] = value
    if not _NAME_RULE.match(found["sandbox_name"]):
        raise ValueError(f"{found['sandbox_name'][:80]!a} is no name of a sandbox")
    if found["sandbox_status"] not in _STATUSES or found["sandbox_backend"] not in _BACKENDS:
        raise ValueError(f"{found['sandbox_name']} is a sandbox with a status or a backend that there is not")
    return {**found, "sandbox_host": host}


def _check_text(field: str, text: str) -> None:
    if len(text) > _TEXT_LIMIT:
        raise ValueError(f"{field} of a sandbox is too long")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{field} of a sandbox is no text") from None


def _ask(host: str, variables: Mapping[str, Any], access: Access) -> Any:
    return Carrier.to(host, variables, access, PlayContext()).views()


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """The inventory of sandboxes."""

    NAME = "claude_code.nix_sandbox.sandboxes"
    # Wherever a name of a group comes from, even from keyed_groups.
    _sanitize_group_name = staticmethod(group_name)

    def verify_file(self, path: str) -> bool:
        """Whether a file is for this plugin, by its name."""
        return bool(super().verify_file(path)) and path.endswith(_ENDINGS)

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Ask the hosts, and add their sandboxes."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        hosts = self._hosts()
        found = self._found(hosts, path, cache)
        for host, (_variables, access) in hosts.items():
            if host in found:
                self._add_all(host, access, found[host])

    # Asking

    def _found(self, hosts: Mapping[str, _Asked], path: str, cache: bool) -> Mapping[str, Any]:
        """What each host says of its sandboxes; those that do not answer are missing."""
        found: dict[str, Any] = {}
        if self.get_option("cache") and cache:
            with contextlib.suppress(KeyError):
                found = dict(self._cache[self.get_cache_key(path)])
        questions = {host: functools.partial(_ask, host, *hosts[host]) for host in hosts if host not in found}
        for host, reply in ask_all(questions, self.get_option("forks"), self.get_option("timeout")).items():
            if reply.failure is None:
                found[host] = reply.answer
            else:
                self._miss(f"The sandboxes of {host} are not known. {reply.failure}")
        if self.get_option("cache") and questions:
            self._cache[self.get_cache_key(path)] = found
        return found

    def _miss(self, words: str) -> None:
        if self.get_option("strict_hosts"):
            raise AnsibleParserError(words)
        display.warning(words)

    # The hosts

    def _hosts(self) -> dict[str, _Asked]:
        """The hosts to ask."""
        asked = self.get_option("hosts")
        if isinstance(asked, Mapping):
            names = [self._new_host(str(name), variables or {}) for name, variables in asked.items()]
        else:
            names = self._names([asked] if isinstance(asked, str) else asked)
        hosts: dict[str, _Asked] = {}
        for name in names:
            variables = self._variables(name)
            # Sandboxes that another file of this kind has found have none themselves.
            if variables.get("ansible_connection") == CONNECTION:
                continue
            try:
                hosts[name] = (HostVarsVars(variables, self.loader, name), self._access(variables))
            except AnsibleError as error:
                self._miss(f"The sandboxes of {name} are not known. {error}")
        return hosts

    def _names(self, patterns: Iterable[Any]) -> list[str]:
        """The hosts that these patterns mean, each once."""
        names: dict[str, None] = {}
        for pattern in map(str, patterns):
            matching = dict.fromkeys(self._matching(pattern.removeprefix("!")))
            if pattern.startswith("!"):
                names = {name: None for name in names if name not in matching}
                continue
            if not matching:
                self._miss(f"No host of the sources before this one is {pattern!r}.")
            names |= matching
        return list(names)

    def _access(self, variables: Mapping[str, Any]) -> Access:
        """How the sandboxes of a host with these variables are reached."""
        self.templar.available_variables = variables
        given = {name: self.get_option(name) for name in ("become_user", "state_dir")}
        # Elsewhere these are variables of sandboxes; here they can be the host's.
        given |= {name: variables.get(f"ansible_sandbox_{name}") for name in ("python", "engine_dir")}
        found = {name: self.templar.template(value) for name, value in given.items() if value is not None}
        chosen: dict[str, Any] = {name: str(value) for name, value in found.items() if value}
        return Access(**chosen)

    def _new_host(self, name: str, variables: Mapping[str, Any]) -> str:
        if name in self.inventory.hosts or name in self.inventory.groups:
            raise AnsibleParserError(
                f"hosts: {name} is in the inventory already. Name it in a list, and set its variables there."
            )
        self.inventory.add_group(_HOSTS)
        self.inventory.add_host(name, _HOSTS)
        for variable, value in variables.items():
            self.inventory.set_variable(name, variable, value)
        return name

    def _matching(self, pattern: str) -> Iterator[str]:
        """The hosts that a name or a pattern means."""
        if pattern == "all":
            yield from self.inventory.hosts
            return
        if pattern == "localhost" and pattern not in self.inventory.hosts:
            yield pattern
        for group in fnmatch.filter(self.inventory.groups, pattern):
            yield from (host.name for host in self.inventory.groups[group].get_hosts())
        yield from fnmatch.filter(self.inventory.hosts, pattern)

    def _variables(self, name: str) -> dict[str, Any]:
        """A host's variables, as they are written."""
        host = self.inventory.hosts.get(name)
        if host is None:
            found = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        else:
            # The sources are not put together yet, so that no host is in `all` by itself.
            groups = list({group.name: group for group in (self.inventory.groups["all"], *host.get_groups())}.values())
            found = combine_vars(get_group_vars(groups), self._from_files(groups))
            found = combine_vars(combine_vars(found, host.get_vars()), self._from_files([host]))
        return dict(combine_vars(found, self._vars))

    def _from_files(self, of: Iterable[Any]) -> Any:
        """The variables in the folders group_vars and host_vars beside the sources."""
        return get_vars_from_inventory_sources(self.loader, self.inventory.processed_sources, list(of), "task")

    # The sandboxes

    def _add_all(self, host: str, access: Access, views: Any) -> None:
        """Add a host's sandboxes, as far as they can be."""
        troubles = []
        if not isinstance(views, list) or len(views) > _MOST_SANDBOXES:
            troubles, views = ["what it says is no list of sandboxes"], []
        for view in views:
            try:
                self._add(believed(view, host), access)
            except ValueError as error:
                troubles.append(str(error))
        for trouble in troubles[:_MOST_WARNINGS]:
            display.warning(f"{host}: {trouble}. It is left out.")
        if len(troubles) > _MOST_WARNINGS:
            display.warning(f"{host}: {len(troubles) - _MOST_WARNINGS} more sandboxes are left out.")

    def _add(self, variables: Mapping[str, Any], access: Access) -> None:
        """Add one sandbox. Raises ValueError where it cannot be."""
        host, name = variables["sandbox_host"], self._hostname(variables)
        self.inventory.add_host(name)
        connection = {
            "ansible_connection": CONNECTION,
            "ansible_sandbox_name": variables["sandbox_name"],
            "ansible_sandbox_host": host,
            **{f"ansible_sandbox_{option}": getattr(access, option) for option in _OF_ACCESS},
        }
        given = {variable: value for variable, value in connection.items() if value is not None}
        for variable, value in {**variables, **given}.items():
            self.inventory.set_variable(name, variable, value)
        for group in self._groups(variables):
            self.inventory.add_group(group)
            self.inventory.add_child(group, name)
        self._construct(name)

    def _hostname(self, variables: Mapping[str, Any]) -> str:
        """A name that the inventory does not have yet. Raises ValueError where there is none."""
        try:
            found = self._compose(self.get_option("hostname"), dict(variables))
        except AnsibleError as error:
            raise AnsibleParserError(f"hostname: {error}") from error
        name = found if isinstance(found, str) else ""
        host = variables["sandbox_host"]
        # The host's own name is the user's.
        if not 0 < len(name) <= 300 or not name.isprintable() or _UNUSABLE.search(name.replace(host, "")):
            raise ValueError(f"{name[:80]!a} can be no host's name")
        if name in self.inventory.hosts or name in self.inventory.groups or name in constants.LOCALHOST:
            raise ValueError(f"{name!a} is the name of another host or group")
        return name

    def _groups(self, variables: Mapping[str, Any]) -> Iterator[str]:
        yield _ALL
        if not self.get_option("default_groups"):
            return
        yield f"sandbox_status_{variables['sandbox_status']}"
        yield group_name(f"sandbox_host_{variables['sandbox_host']}")
        if variables["sandbox_backend"] is not None:
            yield f"sandbox_backend_{variables['sandbox_backend']}"
        if variables["sandbox_project_dir"] is not None:
            yield group_name(f"sandbox_project_{variables['sandbox_project_dir'].strip('/')}")

    def _construct(self, name: str) -> None:
        """What the user makes of the sandbox's variables."""
        strict = self.get_option("strict")
        variables = self.inventory.get_host(name).get_vars()
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        variables = self.inventory.get_host(name).get_vars()
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)
