// Copyright: (c) 2026, claude_code.nix_sandbox contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// The terminal of a sandbox: watched, until somebody takes it over.
"use strict";

(() => {
  const panel = byId("terminal");
  if (!panel || !window.Terminal) return;

  const FONT = getComputedStyle(document.documentElement).getPropertyValue("--mono").trim();
  const LARGEST = 15; // pixels, of text that is watched
  const SMALLEST = 6;
  const TYPING = 14;
  const MOST_UNDRAWN = 8 << 20; // bytes; xterm.js would throw some away at 50 MB
  const box = byId("xterm");
  const mode = byId("terminal-mode");
  const takeOver = byId("take-over");
  const giveBack = byId("give-back");

  allowStyles();
  const terminal = new Terminal({
    fontFamily: FONT,
    fontSize: 12,
    scrollback: 0, // tmux keeps it
    disableStdin: true,
    // What a link says and where it leads are two things, and both are the agent's.
    linkHandler: { activate() {} },
    theme: theme(),
  });
  const fit = new FitAddon.FitAddon();
  terminal.loadAddon(fit);
  terminal.open(box);
  const ratio = widthOfText();

  let writes = false;
  let size = [160, 49];
  let undrawn = 0;

  const stream = new Stream(address, { opened, received, lost });

  function address() {
    const { columns, rows } = wanted();
    return socketAddress(panel.dataset.socket, { columns, rows, ...(writes ? { write: 1 } : {}) });
  }

  /** Columns and rows: the session's own, or those that the panel has room for. */
  function wanted() {
    const proposed = writes ? fit.proposeDimensions() : undefined;
    return proposed ? { columns: proposed.cols, rows: proposed.rows } : { columns: size[0], rows: size[1] };
  }

  function opened() {
    terminal.reset();
    undrawn = 0;
    showMode(writes ? "You are typing into it" : "Watching: read-only", writes ? "typing" : "watching");
    takeOver.hidden = writes;
    giveBack.hidden = !writes;
    if (writes) terminal.focus();
  }

  function received(message) {
    if (message.size) {
      size = message.size;
      arrange();
    } else if (message instanceof ArrayBuffer) {
      undrawn += message.byteLength;
      // More comes than can be drawn: a new connection begins with what is there then.
      if (undrawn > MOST_UNDRAWN) stream.restart();
      else terminal.write(new Uint8Array(message), () => (undrawn -= message.byteLength));
    }
  }

  function lost(why) {
    showMode(why, "lost");
    takeOver.hidden = true;
    giveBack.hidden = !writes;
  }

  function showMode(words, state) {
    mode.textContent = words;
    panel.dataset.mode = state;
  }

  /** Have the session's size fit the panel by the size of the text, or the size of the session the panel. */
  function arrange() {
    if (writes) return;
    const room = box.clientWidth - 2;
    const fitting = Math.floor((room / size[0] / ratio) * 10) / 10;
    terminal.options.fontSize = Math.max(SMALLEST, Math.min(LARGEST, fitting));
    terminal.resize(size[0], size[1]);
    // Cells are whole pixels of the screen, and may be wider than reckoned.
    const drawn = box.querySelector(".xterm-screen")?.offsetWidth ?? 0;
    if (drawn > room && terminal.options.fontSize > SMALLEST) {
      terminal.options.fontSize = Math.max(SMALLEST, (terminal.options.fontSize * room) / drawn - 0.05);
    }
  }

  function setWrites(value) {
    writes = value;
    panel.classList.toggle("taken", writes);
    terminal.options.disableStdin = !writes;
    terminal.options.cursorBlink = writes && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (writes) {
      terminal.options.fontSize = TYPING;
      fit.fit();
    } else {
      arrange();
    }
    stream.restart();
    if (!writes) {
      takeOver.hidden = false;
      takeOver.focus();
    }
  }

  /** What of the keyboard is ours, and not the session's; false keeps it from the session. */
  function pressed(event) {
    if (event.type !== "keydown") return writes;
    const withShift = event.ctrlKey && event.shiftKey && !event.altKey;
    const copies = withShift && event.code === "KeyC";
    if ((copies || (!writes && event.ctrlKey && event.code === "KeyC")) && terminal.hasSelection()) {
      event.preventDefault();
      copy(terminal.getSelection());
      return false;
    }
    if (copies) event.preventDefault();
    if (writes && withShift && event.code === "KeyG") {
      event.preventDefault();
      setWrites(false);
      return false;
    }
    return writes && !copies;
  }

  terminal.attachCustomKeyEventHandler(pressed);
  terminal.onData((text) => writes && stream.send(new TextEncoder().encode(text)));
  terminal.onBinary((text) => writes && stream.send(Uint8Array.from(text, (character) => character.charCodeAt(0))));
  terminal.onResize(({ cols, rows }) => writes && stream.send(JSON.stringify({ resize: [cols, rows] })));
  box.addEventListener("mouseup", () => terminal.hasSelection() && copy(terminal.getSelection()));
  takeOver.addEventListener("click", () => setWrites(true));
  giveBack.addEventListener("click", () => setWrites(false));

  let arranging = 0;
  new ResizeObserver(() => {
    clearTimeout(arranging);
    arranging = setTimeout(() => (writes ? fit.fit() : arrange()), 100);
  }).observe(box);

  /** xterm.js makes style sheets and styles of elements, which the policy of these pages takes only from us. */
  function allowStyles() {
    const { nonce } = document.querySelector("meta[name=csp-nonce]");
    const create = document.createElement;
    document.createElement = function (name, options) {
      const element = create.call(this, name, options);
      if (element instanceof HTMLStyleElement) element.nonce = nonce;
      return element;
    };
    // By way of the object model styles are allowed; as an attribute they are not.
    HTMLSpanElement.prototype.setAttribute = function (name, value) {
      if (name === "style") this.style.cssText = value;
      else Element.prototype.setAttribute.call(this, name, value);
    };
  }

  /** How wide a character is, as part of the size of the text. */
  function widthOfText() {
    const context = document.createElement("canvas").getContext("2d");
    context.font = `100px ${FONT}`;
    return context.measureText("W").width / 100;
  }

  /** The colours of ansi.css, so that a card and its terminal look alike. */
  function theme() {
    const probe = document.createElement("span");
    probe.hidden = true;
    box.append(probe);
    const colour = (name, property) => {
      probe.className = name;
      return getComputedStyle(probe)[property];
    };
    const names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    const bright = names.map((name) => `bright${name[0].toUpperCase()}${name.slice(1)}`);
    const colours = Object.fromEntries([...names, ...bright].map((name, at) => [name, colour(`fg-${at}`, "color")]));
    const own = {
      background: colour("fg-own", "color"),
      foreground: colour("bg-own", "backgroundColor"),
      cursor: "#f2b48a",
      selectionBackground: "#3d5a80",
    };
    probe.remove();
    return { ...colours, ...own };
  }
})();
