# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Says what the role fleet has to know of a host, as JSON: `python - ACCOUNT PROGRAM…`.

It runs with the Python that modules run with, however old that is.
"""

import json
import os
import pwd
import shutil
import sys

# As the engine looks for them.
PATH = (
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ":/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin"
)


def entry(name):
    """What the host knows of an account; None where there is none."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return {"uid": found.pw_uid, "gid": found.pw_gid, "home": found.pw_dir}


def main():
    """Print it."""
    account, programs = sys.argv[1], sys.argv[2:]
    found = {
        "account": entry(account),
        "missing": [name for name in programs if shutil.which(name, path=PATH) is None],
        "python": ".".join(map(str, sys.version_info[:2])),
        "resume": os.path.exists("/usr/local/bin/claude-sandbox"),
        "systemd": os.path.isdir("/run/systemd/system"),
        "uid": os.geteuid(),
        "user": pwd.getpwuid(os.geteuid()).pw_name,
    }
    sys.stdout.write(json.dumps(found))


main()
