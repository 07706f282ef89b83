# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""claude-remote: sandboxes on servers, from a laptop, over SSH alone.

Needs Python's standard library and ssh. A command that finds a connection open is to cost little more than Python's own
start: what takes milliseconds to import (argparse, subprocess, tomllib, typing, …) is imported where it is used.
"""

__version__ = "0.1.0"
