# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The engine: makes, observes, changes and destroys sandboxes on one host. Its facade is `sandboxes`."""
