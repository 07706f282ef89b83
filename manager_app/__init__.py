# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manager: a dashboard and a REST API over the sandboxes of one host.

It keeps nothing of its own: what there is stands in the registry, which all doors read.
"""
