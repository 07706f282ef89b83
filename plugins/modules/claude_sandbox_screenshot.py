#!/usr/bin/python
# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claude_sandbox_screenshot
short_description: Take a picture of what a running sandbox's screen shows
description:
  - Writes what the sandbox's screen shows now as a PNG file, on the host or with O(fetch) on the controller.
  - A file that has the same picture already is left alone.
author:
  - claude_code.nix_sandbox contributors (@claude-code)
version_added: 0.1.0
extends_documentation_fragment:
  - claude_code.nix_sandbox.sandbox.common
  - ansible.builtin.files
options:
  name:
    description: The sandbox, by its name, its id, or the beginning of its id.
    type: str
    required: true
  dest:
    description:
      - The file to write. Its directory has to be there.
      - With O(fetch) it is on the controller; a relative path is then below the play's directory.
    type: path
    required: true
  fetch:
    description:
      - Whether the file is written on the controller, by who runs Ansible there.
      - Of the options of files only O(mode) can be given then, as an octal number.
    type: bool
    default: false
  mode:
    description: The file's permissions. Only its owner can read it unless given, for a screen may show anything.
    type: raw
    default: "0600"
attributes:
  check_mode:
    support: partial
    details: No picture is taken. It reports a change, for it cannot know whether there would be one.
  diff_mode:
    support: none
seealso:
  - module: claude_code.nix_sandbox.claude_sandbox_attach
"""

EXAMPLES = r"""
- name: What the screen shows, as a file on the controller
  claude_code.nix_sandbox.claude_sandbox_screenshot:
    name: webshop
    dest: pictures/{{ inventory_hostname }}-webshop.png
    fetch: true

- name: The same as a file on the host, which a group may read
  claude_code.nix_sandbox.claude_sandbox_screenshot:
    name: webshop
    dest: /srv/pictures/webshop.png
    group: www-data
    mode: "0640"
"""

RETURN = r"""
path:
  description: The file, on the host or with O(fetch) on the controller.
  returned: success
  type: str
  sample: /srv/pictures/webshop.png
checksum:
  description: The SHA-256 of the file.
  returned: when a picture was taken
  type: str
width:
  description: How wide the picture is, in pixels.
  returned: when a picture was taken
  type: int
  sample: 1920
height:
  description: How high the picture is, in pixels.
  returned: when a picture was taken
  type: int
  sample: 1080
size:
  description: How long the file is, in bytes.
  returned: when a picture was taken
  type: int
"""

import base64
import hashlib
import os
import tempfile

from ansible.module_utils.basic import FILE_COMMON_ARGUMENTS, AnsibleModule

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import screen

# A result is held in memory several times over, on both machines; a usual picture has one or two.
_RESULT_MIB = 16


def _write(module: AnsibleModule, content: bytes, checksum: str) -> bool:
    """Have the file hold this picture and its attributes be as asked for; whether that was a change."""
    dest = module.params["dest"]
    if os.path.lexists(dest) and not os.path.isfile(dest):
        module.fail_json(msg=f"dest {dest} is no plain file.")
    if not os.path.isdir(os.path.dirname(dest) or "."):
        module.fail_json(msg=f"There is no directory for dest {dest}: make it first.")
    changed = module.sha256(dest) != checksum if os.path.exists(dest) else True
    if changed:
        descriptor, draft = tempfile.mkstemp(dir=module.tmpdir)
        with open(descriptor, "wb") as file:
            file.write(content)
        # A new file gets the permissions that the umask leaves, until it gets those that are asked for.
        before = os.umask(0o077)
        try:
            module.atomic_move(draft, dest, unsafe_writes=module.params["unsafe_writes"])
        finally:
            os.umask(before)
    attributes = module.load_file_common_arguments(module.params, path=dest)
    return bool(module.set_fs_attributes_if_different(attributes, changed))


def _check_fetch(module: AnsibleModule) -> None:
    """Fail where the picture would not get where it is wanted, or the file there not be as it is wanted."""
    params = module.params
    # The action plugin of this name names no file, and takes the picture out of the result again.
    if params["dest"]:
        module.fail_json(msg="fetch needs the module's full name: claude_code.nix_sandbox.claude_sandbox_screenshot.")
    given = [name for name in FILE_COMMON_ARGUMENTS if name != "mode" and params[name]]
    if given:
        module.fail_json(msg=f"With fetch, {', '.join(given)} cannot be given: the file is on the controller.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **door.NAME,
            "dest": {"type": "path", "required": True},
            "fetch": {"type": "bool", "default": False},
            "mode": {"type": "raw", "default": "0600"},
            **door.STATE_DIR,
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    params = module.params
    if params["fetch"]:
        _check_fetch(module)
    elif not params["dest"]:
        module.fail_json(msg="dest is empty: give the file to write.")
    # What is said of a path is made up with what this host knows of it.
    where = {} if params["fetch"] else {"path": params["dest"]}
    if module.check_mode:
        module.exit_json(changed=True, **where)
    with door.failing(module):
        content = door.engine(module).frame(params["name"])
        width, height = screen.dimensions(content)
    checksum = hashlib.sha256(content).hexdigest()
    results = {"checksum": checksum, "width": width, "height": height, "size": len(content)}
    if not params["fetch"]:
        module.exit_json(changed=_write(module, content, checksum), **where, **results)
    if len(content) > _RESULT_MIB << 20:
        module.fail_json(
            msg=f"The picture has {len(content) >> 20} MiB, and at most {_RESULT_MIB} can be fetched. "
            "Leave out fetch, and get the file by ansible.builtin.fetch."
        )
    module.exit_json(changed=False, content=base64.b64encode(content).decode(), **results)


if __name__ == "__main__":
    main()
