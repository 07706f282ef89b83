// Copyright: (c) 2026, claude_code.nix_sandbox contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// The log of a sandbox, as it comes.
"use strict";

(() => {
  const panel = byId("logs");
  if (!panel) return;

  const MOST = 5000; // lines that are kept
  const lines = byId("lines");
  const mode = byId("logs-mode");
  const follow = byId("follow");
  let follows = true;

  new Stream(() => socketAddress(panel.dataset.socket), { opened, received, lost });

  // A new connection begins with the last lines again.
  function opened() {
    lines.replaceChildren();
    mode.textContent = "live";
    panel.dataset.mode = "watching";
  }

  function received(message) {
    const added = document.createDocumentFragment();
    for (const text of message.lines.slice(-MOST)) {
      const line = document.createElement("div");
      line.textContent = text || "\u200b";
      added.append(line);
    }
    lines.append(added);
    while (lines.childElementCount > MOST) lines.firstElementChild.remove();
    if (follows) lines.scrollTop = lines.scrollHeight;
  }

  function lost(why) {
    mode.textContent = why;
    panel.dataset.mode = "lost";
  }

  function setFollows(value) {
    follows = value;
    follow.setAttribute("aria-pressed", String(value));
    if (value) lines.scrollTop = lines.scrollHeight;
  }

  follow.addEventListener("click", () => setFollows(!follows));
  // Whoever scrolls up wants to read; at the end again, to go on.
  lines.addEventListener("scroll", () => {
    const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
    if (atEnd !== follows) setFollows(atEnd);
  });
})();
