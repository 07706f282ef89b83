// Copyright: (c) 2026, claude_code.nix_sandbox contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// What all pages do: polling, what follows from it (times, title, notifications), dialogs, forms.
"use strict";

const PACE = 2000; // milliseconds between two polls
const SLOW_PACE = 30000; // of a page that nobody sees
const LONGEST_PACE = 20000; // while the manager cannot be reached
const SYSTEM_EVERY = 3; // polls to one of the host's figures

const byId = (id) => document.getElementById(id);

const stored = {
  get(name) {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(name, value);
    } catch {
      // It holds for this page, then.
    }
  },
};

/** Have a screen reader say something. */
function say(text) {
  byId("said").textContent = text;
}

// --- Polling

let failures = 0;
let ticks = 0;
let timer = 0;

function notifies() {
  return stored.get("notify") === "on" && "Notification" in window && Notification.permission === "granted";
}

function pace() {
  if (document.hidden) return notifies() ? SLOW_PACE : 0;
  return Math.min(PACE * 2 ** failures, LONGEST_PACE);
}

function schedule() {
  clearTimeout(timer);
  const milliseconds = pace();
  if (milliseconds) timer = setTimeout(tick, milliseconds);
}

function tick() {
  for (const id of ticks++ % SYSTEM_EVERY ? ["poll"] : ["poll", "system"]) {
    const element = byId(id);
    if (element) htmx.trigger(element, "poll");
  }
  schedule();
}

function answered(event) {
  const { elt, xhr, successful } = event.detail;
  if (elt.id === "filter" && successful) {
    remember(elt);
    // A poll that is under way asked for what was shown before.
    htmx.trigger(byId("poll"), "htmx:abort");
  }
  if (elt.id === "problems" && !successful) elt.textContent = "What this host offers could not be found out.";
  if (elt.id !== "poll") return;
  // Whoever is not let in any more has to log in, and what is gone is told of by its page.
  if (xhr.status === 401 || xhr.status === 403) location.reload();
  const before = failures;
  failures = successful ? 0 : failures + 1;
  if (before !== failures) schedule();
  if (byId("lost").hidden !== (failures < 2)) {
    byId("lost").hidden = failures < 2;
    if (!failures) say("The connection is there again.");
  }
}

/** Have the address of the page be that of what is shown. */
function remember(form) {
  const shown = [...new FormData(form)].filter(([name, value]) => value && !(name === "sort" && value === "waiting"));
  const query = new URLSearchParams(shown).toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

// --- What follows from what was swapped

const UNITS = [
  ["year", 31536000],
  ["month", 2592000],
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always" });

function ago(seconds) {
  const [unit, length] = UNITS.find(([, each]) => Math.abs(seconds) >= each) ?? ["second", 1];
  return Math.abs(seconds) < 5 ? "just now" : relative.format(-Math.trunc(seconds / length), unit);
}

function tellTimes() {
  for (const element of document.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    element.textContent = ago((Date.now() - at) / 1000);
    element.title = at.toLocaleString();
  }
}

let known = null;
const title = document.title.replace(/^\(\d+\) /, "");

function waiting() {
  const pulse = byId("pulse");
  if (pulse) return new Map(Object.entries(JSON.parse(pulse.dataset.waiting)));
  const head = byId("head");
  return new Map(head?.dataset.state === "waiting" ? [[head.dataset.name, head.dataset.name]] : []);
}

function tellWaiting() {
  const now = waiting();
  document.title = now.size ? `(${now.size}) ${title}` : title;
  for (const [key, name] of now) {
    if (known === null || known.has(key)) continue;
    say(`${name} is waiting for you.`);
    if (notifies()) tell(key, name);
  }
  known = now;
}

function tell(key, name) {
  const notification = new Notification(`${name} is waiting for you`, { tag: key, icon: "/static/icon.svg" });
  notification.addEventListener("click", () => {
    window.focus();
    notification.close();
  });
}

let due = false;

function refresh() {
  if (due) return;
  due = true;
  // Once for all that is swapped together, and still before it is painted.
  queueMicrotask(() => {
    due = false;
    tellTimes();
    tellWaiting();
  });
}

// --- Buttons

function showNotify() {
  const button = byId("notify");
  if (!button || !("Notification" in window)) return;
  button.hidden = false;
  button.setAttribute("aria-pressed", String(notifies()));
  const denied = Notification.permission === "denied";
  button.disabled = denied;
  button.title = denied ? "This browser was told to allow no notifications from here" : "When an agent starts waiting";
}

async function toggleNotify() {
  const on = !notifies() && (await Notification.requestPermission()) === "granted";
  stored.set("notify", on ? "on" : "off");
  showNotify();
}

const THEMES = { system: "as the system", light: "light", dark: "dark" };

function showTheme() {
  const chosen = document.documentElement.dataset.theme ?? "system";
  for (const attribute of ["aria-label", "title"]) byId("theme").setAttribute(attribute, `Colours: ${THEMES[chosen]}`);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % names.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  stored.set("theme", next);
  showTheme();
}

/** Put text into the clipboard; where the browser keeps that for safe origins, have it selected at least. */
async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
    return true;
  } catch {
    if (element) getSelection().selectAllChildren(element);
    return false;
  }
}

async function copyFrom(button) {
  const source = byId(button.dataset.copy);
  const label = button.querySelector("span");
  label.textContent = (await copy(source.textContent, source)) ? "Copied" : "Press Ctrl+C";
  setTimeout(() => (label.textContent = "Copy"), 2000);
}

function clicked(event) {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.dialog) byId(button.dataset.dialog).showModal();
  else if ("close" in button.dataset) button.closest("dialog").close();
  else if (button.dataset.copy) copyFrom(button);
  else if (button.id === "notify") toggleNotify();
  else if (button.id === "theme") nextTheme();
  else if (button.id === "another-mount") anotherMount();
}

// --- Forms

/** A form that takes its time is sent once. */
function submitted(event) {
  const words = event.target.dataset.once;
  if (!words) return;
  const button = event.submitter ?? event.target.querySelector("button:not([type])");
  button.dataset.before = button.textContent;
  button.textContent = words;
  button.setAttribute("aria-busy", "true");
  // Not before it is sent.
  setTimeout(() => (button.disabled = true));
}

/** A page that the browser kept is as it was before its form was sent. */
function shownAgain() {
  for (const button of document.querySelectorAll("button[data-before]")) {
    button.textContent = button.dataset.before;
    button.disabled = false;
    button.removeAttribute("aria-busy");
    delete button.dataset.before;
  }
}

function showBackend() {
  const chosen = document.querySelector("form.form select[name=backend]")?.value;
  for (const field of document.querySelectorAll("[data-for-backend]")) {
    field.hidden = chosen !== undefined && field.dataset.forBackend !== chosen;
  }
}

function anotherMount() {
  const row = byId("mounts").lastElementChild.cloneNode(true);
  for (const input of row.querySelectorAll("input")) input.value = "";
  byId("mounts").append(row);
  row.querySelector("input").focus();
}

function picture(event) {
  event.target.closest?.(".shot")?.classList.toggle("broken", event.type === "error");
}

// --- Begin

document.addEventListener("click", clicked);
document.addEventListener("submit", submitted);
document.addEventListener("change", showBackend);
document.addEventListener("error", picture, true);
document.addEventListener("load", picture, true);
window.addEventListener("pageshow", shownAgain);
showTheme();
showNotify();
showBackend();
if (byId("another-mount")) byId("another-mount").hidden = false;
refresh();
setInterval(tellTimes, 15000);

if (window.htmx && window.Idiomorph) {
  // A card that the page has as it is stands in the list as its place only.
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (_old, next) => !next.hasAttribute?.("data-keep");
  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["X-CSRF-Token"] = document.querySelector("meta[name=csrf-token]").content;
  });
  document.addEventListener("htmx:afterRequest", answered);
  document.addEventListener("htmx:oobAfterSwap", refresh);
  document.addEventListener("htmx:afterSwap", refresh);
  document.addEventListener("visibilitychange", () => (document.hidden ? schedule() : tick()));
  window.addEventListener("online", tick);
  schedule();
} else {
  byId("unbuilt").hidden = false;
}
