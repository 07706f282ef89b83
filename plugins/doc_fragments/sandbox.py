# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of what the modules have in common."""

from __future__ import annotations

import re
import textwrap


class ModuleDocFragment:
    """Each attribute is one fragment."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - Its name on this host, by which a later task knows it again.
      - Letters, digits, C(_) and C(-), at most 63, beginning with a letter or a digit.
    type: str
    required: true
  state:
    description:
      - V(started) makes it where it is missing, and starts it where it does not run.
      - V(restarted) ends what the agent is doing and starts it again.
      - V(stopped) ends it and keeps its record; V(absent) ends it and removes its record. Neither looks at the other
        parameters.
    type: str
    choices: [started, stopped, restarted, absent]
    default: started
  project_dir:
    description:
      - The directory on the host in which the agent works, at the same path in the sandbox, for reading and writing.
      - Required to make a sandbox. Without it an existing sandbox is taken as it is recorded.
      - It must be the directory itself and not reached through a symbolic link.
    type: path
  backend:
    description:
      - How the sandbox is isolated. V(bubblewrap) needs no root.
      - V(container) is one of systemd-nspawn, which root makes.
      - V(vm) is a machine with a kernel of its own, by QEMU.
    type: str
    choices: [bubblewrap, container, vm]
    default: bubblewrap
  user:
    description:
      - The account whose sandbox it is. Only root can name another than its own.
      - Where root gives none, it is the owner of O(project_dir).
    type: str
  network:
    description: Whether the sandbox has the host's network. Without it only loopback is there, and it is its own.
    type: bool
    default: true
  toolchain:
    description:
      - Where the programs inside come from.
      - V(host) is the host's own C(/usr), read-only. V(nix) is what Nix made, see O(nix_toolchain).
        V(rootfs) is another tree with programs, see O(rootfs).
      - V(auto) is the tree where O(rootfs) is given, V(nix) where O(nix_toolchain) is or the host has one, the tree for
        a V(vm) where one is installed, and V(host) elsewhere.
    type: str
    choices: [auto, host, nix, rootfs]
    default: auto
  rootfs:
    description: The tree with O(toolchain=rootfs), C(/usr/local/lib/claude-sandbox/rootfs) where left out.
    type: path
  nix_toolchain:
    description:
      - The programs with O(toolchain=nix), by their path, a toolchain of the project's flake or any profile with a
        shell and C(env) in its C(bin).
      - Where left out, the profile C(/nix/var/nix/profiles/claude-sandbox), or on NixOS what its module has put into
        C(/etc/claude-sandbox/toolchains).
    type: path
  agent:
    description:
      - The program that runs. V(claude) is Claude Code, V(shell) a shell; anything else is a program and its arguments.
    type: list
    elements: str
    default: [claude]
  agent_args:
    description: Arguments that follow, for example C(--dangerously-skip-permissions).
    type: list
    elements: str
  resume:
    description: Whether Claude Code goes on with its last conversation when the sandbox is started again.
    type: bool
    default: false
  api_key:
    description:
      - The key for Anthropic's API, given to the agent as C(ANTHROPIC_API_KEY).
      - It is kept in a file that only the sandbox's account can read, never recorded, logged or shown. A different
        one is stored at once and used from the next start.
      - Left out, what is stored stays; an empty one is taken away.
    type: str
  secret_env:
    description: More variables for the agent that are kept as O(api_key) is. Given, it replaces all that are stored.
    type: dict
  env:
    description: Variables for the agent. They are recorded and shown; use O(secret_env) for secrets.
    type: dict
  grants:
    description:
      - What of the account the sandbox gets. What is not there on the host is left out, and told in the result.
      - Where the sandbox is root's, V(claude), V(git), V(ssh) and V(gh) are given only when asked for.
    type: dict
    suboptions:
      claude:
        description:
          - The account's login to Claude and this project's transcripts, for reading and writing; its agents, commands,
            hooks, plugins and skills, for reading; copies of its settings and of C(~/.claude.json). Given by default.
          - The rest of C(~/.claude) is the project's own, for what a sandbox could write there would be obeyed outside.
        type: bool
      git:
        description: C(~/.gitconfig) and C(~/.config/git), for reading. Given by default.
        type: bool
      ssh:
        description: C(~/.ssh), for reading, private keys included. Given by default.
        type: bool
      gh:
        description: C(~/.config/gh), for reading. Given by default.
        type: bool
      display:
        description: An X display of the sandbox's own. Given by default.
        type: bool
      x11:
        description:
          - The account's own X display, where whoever is on it can watch the other windows, and type into them.
          - It takes the place of O(grants.display).
        type: bool
      wayland:
        description: The account's own Wayland desktop.
        type: bool
      audio:
        description: PipeWire and PulseAudio, the microphone included.
        type: bool
      gpu:
        description: The graphics card (C(/dev/dri)).
        type: bool
      dbus:
        description: The session bus, by which programs can be started outside.
        type: bool
      keyring:
        description: The keyring's sockets.
        type: bool
      ssh_agent:
        description: The ssh-agent named by E(SSH_AUTH_SOCK).
        type: bool
      nix:
        description: The Nix daemon's socket. Refused with O(network=false), for the daemon fetches for whoever asks.
        type: bool
      locale:
        description: The variables for language and time zone.
        type: bool
  mounts:
    description:
      - More paths of the host. To a running V(container) one can be added; elsewhere a change needs a restart.
    type: list
    elements: dict
    suboptions:
      source:
        description: The path on the host, not reached through a symbolic link. Where it is missing it is left out.
        type: path
        required: true
      target:
        description: The path in the sandbox; the same where left out.
        type: path
      mode:
        description: Whether it can be read (V(ro)), or read and written (V(rw)).
        type: str
        choices: [ro, rw]
        default: ro
  geometry:
    description: The size of the display in pixels, at most 7680x4320.
    type: str
    default: 1920x1080
  glx:
    description: Whether the display has OpenGL, at four times the memory. Not for a V(vm), whose display is its own.
    type: bool
    default: false
  container:
    description: What is only for O(backend=container).
    type: dict
    suboptions:
      user_namespace:
        description:
          - Whether its root has another uid than the host's root.
          - V(false) gives the grants C(audio), C(dbus), C(gpu), C(keyring) and C(ssh_agent) back, which work for the
            account's own uid alone. Only root can choose it, and not for a sandbox of root's.
        type: bool
        default: true
  limits:
    description:
      - What the sandbox may use of its host at most. What is not given is not limited.
      - It needs systemd, and for an account that is not root a systemd of its own that may keep limits, as it has with
        cgroup v2 once it lingers. What cannot be kept is an error.
      - A change reaches a sandbox that runs.
    type: dict
    suboptions:
      memory:
        description: Memory in MiB, from 64. What needs more is ended by the kernel; nothing is swapped.
        type: int
      cpus:
        description: Processors, from 0.01; V(0.5) is half the time of one.
        type: float
      tasks:
        description: Processes and threads, from 16.
        type: int
      io_weight:
        description: Its share of a busy disk among others, from 1 to 10000; 100 is what those have that say nothing.
        type: int
  vm:
    description: What is only for O(backend=vm).
    type: dict
    suboptions:
      accel:
        description: What executes its instructions. V(auto) is KVM where a guest really runs with it, else TCG.
        type: str
        choices: [auto, kvm, tcg]
        default: auto
      memory:
        description: Its memory in MiB, at least 256.
        type: int
        default: 2048
      cpus:
        description: How many processors it has.
        type: int
        default: 2
      guest:
        description:
          - The directory with its C(kernel) and C(initrd), as C(make guest) or the role makes it.
          - Where left as it is, and the programs are from Nix and bring a kernel, that one is taken.
        type: path
        default: /usr/local/lib/claude-sandbox/guest
"""

    CHANGE = r"""
options:
  on_change:
    description:
      - What to do when a sandbox is asked for otherwise than it is recorded, and the change needs more than recording.
      - V(fail) says which settings differ. V(restart) ends what the agent is doing, or makes another sandbox in its
        place where that is needed. V(ignore) keeps what is recorded.
      - A sandbox that does not run is changed without asking, unless another must take its place.
    type: str
    choices: [fail, restart, ignore]
    default: fail
"""

    COMMON = r"""
options:
  state_dir:
    description:
      - The directory of the registry. All that shall see the same sandboxes use the same one.
      - C(/var/lib/claude-manager) for root, C($XDG_STATE_HOME/claude-sandbox) for others, unless given.
    type: path
attributes:
  check_mode:
    description: Can run in check mode and say what it would do without doing it.
  diff_mode:
    description: Will show what has changed, or in check mode would.
  action_group:
    description: Use C(group/claude_code.nix_sandbox.sandbox) in C(module_defaults) to set O(state_dir) for all.
    support: full
    membership:
      - claude_code.nix_sandbox.sandbox
  platform:
    description: The systems on which it works.
    platforms: Linux
    support: full
requirements:
  - Python 3.11 or newer on the host
  - what the role P(claude_code.nix_sandbox.sandbox#role) installs
"""

    LIST: str
    TASK: str


# The same parameters once more, for each sandbox of a list.
ModuleDocFragment.LIST = """
options:
  sandboxes:
    description: The sandboxes, each with the parameters of M(claude_code.nix_sandbox.claude_sandbox).
    type: list
    elements: dict
    required: true
    suboptions:
""" + textwrap.indent(
    ModuleDocFragment.DOCUMENTATION.partition("options:\n")[2].replace("O(", "O(sandboxes[]."), "    "
)

# The parameters of a sandbox that is made for a task, which chooses what runs in it.
ModuleDocFragment.TASK = re.sub(
    r"(?m)^  (?:name|state|agent|agent_args|resume):\n(?:    .*\n)+", "", ModuleDocFragment.DOCUMENTATION
)
