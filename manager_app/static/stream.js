// Copyright: (c) 2026, claude_code.nix_sandbox contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// A WebSocket that is opened again after a loss.
"use strict";

const FIRST_PAUSE = 500; // milliseconds
const LONGEST_PAUSE = 30000;
const LOOK_AGAIN = 2000; // whether there is something to connect to

/**
 * A stream of messages from an address.
 *
 * address: says where, anew for each connection. opened, received, lost: are told what happens.
 */
class Stream {
  constructor(address, { opened, received, lost }) {
    this.address = address;
    this.told = { opened, received, lost };
    this.pause = FIRST_PAUSE;
    this.open();
  }

  open() {
    // Of a sandbox that is stopped there is nothing to be had.
    if (!["running", "dead"].includes(byId("head").dataset.status)) {
      this.told.lost("It does not run.");
      this.timer = setTimeout(() => this.open(), LOOK_AGAIN);
      return;
    }
    const socket = new WebSocket(this.address());
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    let ended = "";
    let first = true;
    socket.addEventListener("message", ({ data }) => {
      if (socket !== this.socket) return;
      const message = typeof data === "string" ? JSON.parse(data) : data;
      if (message.ended) {
        ended = message.ended;
        return;
      }
      if (first) this.told.opened();
      first = false;
      this.pause = FIRST_PAUSE;
      this.told.received(message);
    });
    socket.addEventListener("close", () => {
      if (socket !== this.socket) return;
      this.told.lost(ended || "The connection is lost; it is tried again.");
      this.timer = setTimeout(() => this.open(), this.pause * (0.75 + Math.random() / 2));
      this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
    });
  }

  /** Begin anew, at once. */
  restart() {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.timer);
    socket?.close();
    this.open();
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(message);
  }
}

/** The address of a WebSocket of this origin. */
function socketAddress(path, parameters = {}) {
  const address = new URL(path, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.search = new URLSearchParams(parameters).toString();
  return address.href;
}
