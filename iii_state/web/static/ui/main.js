// The page's frame: screens and places, the state of the connection, keys, themes.

import { button, clock, debounce, h, plain, replace, say, tellTimes, timeOfDay, trouble } from "./parts/dom.js";
import { dialog } from "./parts/dialog.js";
import { engine } from "./parts/engine.js";

const SCREENS = [
  ["", "Overview", "o", () => import("./screens/overview.js")],
  ["data", "Data", "d", () => import("./screens/data.js")],
  ["live", "Live", "l", () => import("./screens/live.js")],
  ["triggers", "Triggers", "t", () => import("./screens/triggers.js")],
  ["dead", "Dead letters", "x", () => import("./screens/dead.js")],
  ["fleet", "Fleet", "f", () => import("./screens/fleet.js")],
  ["rates", "Rates", "r", () => import("./screens/rates.js")],
];

const rail = document.getElementById("rail");
const top_ = document.getElementById("top");
const main = document.getElementById("main");
let current = null;
let shownPath = null;
let turn = 0;

// --- places: #/data?scope=a%2Fb&key=

export function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const given = new Map();
  for (const part of query.split("&").filter(Boolean)) {
    const [key, value = ""] = part.split(/=(.*)/s);
    try {
      given.set(decodeURIComponent(key), decodeURIComponent(value));
    } catch { /* not one of ours */ }
  }
  return { path, given };
}

export function address(path, given = {}) {
  const query = Object.entries(given)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`)
    .join("&");
  return `#/${path}${query ? `?${query}` : ""}`;
}

let hasDraft = () => false;

/** Asks before the place is left while `isDraft` says so; null for none. */
export function keepDraft(isDraft) {
  hasDraft = isDraft ?? (() => false);
}

function leaves() {
  return !hasDraft() || window.confirm("Leave, and lose what was typed?");
}

let here = location.hash;
async function moved() {
  if (location.hash === here) return;
  if (!leaves()) {
    history.pushState(null, "", here || "#/");
    return;
  }
  here = location.hash;
  await show();
}

export function go(path, given, { instead = false } = {}) {
  const to = address(path, given);
  if (to === here) return;
  if (!leaves()) return;
  if (instead) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
  here = to;
  show();
}

async function show() {
  const { path, given } = place();
  const known = SCREENS.find(([each]) => each === path);
  for (const link of rail.querySelectorAll("a"))
    if (link.dataset.path === path) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  if (!known) {
    current?.close();
    current = null;
    shownPath = path;
    replace(main, h("div", { class: "empty" }, "There is no such place. ", h("a", { href: "#/" }, "Overview")));
    return;
  }
  document.title = `${known[1]} – iii-state`;
  if (engine.state === "connecting" || engine.state === "token") return;
  if (current && shownPath === path) {
    current.update(given);
    return;
  }
  const mine = ++turn;
  current?.close();
  current = null;
  shownPath = path;
  try {
    const loaded = await known[3]();
    if (mine !== turn) return;
    replace(main);
    current = loaded.open(main, given);
  } catch (error) {
    replace(main, trouble(error, () => location.reload()));
  }
}

// --- the frame

function drawRail() {
  replace(
    rail,
    h("div", { class: "brand" }, "iii-state"),
    SCREENS.map(([path, title]) => h("a", { href: `#/${path}`, "data-path": path }, title)),
    h("div", { class: "grow" }),
    button("Settings", settings, { class: "quiet" }),
  );
}

const STATES = {
  connecting: () => ["warn", "Connecting …"],
  open: () => ["ok", `Connected${engine.about ? ` to ${engine.about.engine ?? "an engine"}, ${engine.about.adapter}` : ""}`],
  away: () => ["bad", `No connection; as of ${timeOfDay(engine.heardAt + clock.offset)}. Connecting again …`],
  refused: () => ["bad", engine.why],
  token: () => ["warn", "A token is needed"],
};

function drawTop() {
  const [colour, words] = STATES[engine.state]();
  const sign = { ok: "●", warn: "◐", bad: "✕" }[colour];
  replace(
    top_,
    h("span", { class: `state ${colour}` }, h("span", { "aria-hidden": "true" }, `${sign} `), words),
    engine.about?.token ? h("span", { class: "muted" }, `token ${plain(engine.about.token)}`) : null,
    engine.readOnly && engine.state === "open" ? h("span", { class: "badge", title: engine.readOnly }, "read-only") : null,
    engine.hasToken ? button("Forget token", () => engine.useToken(null), { class: "quiet" }) : null,
  );
  document.documentElement.dataset.connection = engine.state;
  say(words);
}

function tokenForm() {
  current?.close();
  current = null;
  shownPath = null;
  const field = h("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const enter = (event) => {
    event.preventDefault();
    engine.useToken(field.value.trim());
  };
  replace(
    main,
    h(
      "form",
      { class: "gate", onsubmit: enter },
      h("h1", null, "Token"),
      engine.why ? h("div", { class: "trouble", role: "alert" }, engine.why) : null,
      h("p", null, "This engine lets in who brings a token. It is kept in this tab only, until it is closed."),
      h("label", { for: "token" }, "Token"),
      field,
      h("button", { type: "submit", class: "primary" }, "Connect"),
    ),
  );
  field.focus();
}

function settings() {
  const root = document.documentElement;
  const chosen = (name, attribute, options, apply) => {
    const select = h(
      "select",
      { id: `set-${name}`, onchange: () => apply(select.value) },
      options.map(([value, words]) => h("option", { value, selected: value === attribute }, words)),
    );
    return h("p", null, h("label", { for: `set-${name}` }, name), " ", select);
  };
  const kept = (name) => (value) => {
    if (value) root.dataset[name] = value;
    else delete root.dataset[name];
    try {
      localStorage.setItem(`iii-state-${name}`, value);
    } catch { /* for this visit only */ }
  };
  dialog("Settings", (close) => [
    chosen("Theme", root.dataset.theme ?? "", [["", "As the system"], ["light", "Light"], ["dark", "Dark"]], kept("theme")),
    chosen("Rows", root.dataset.density ?? "", [["", "Compact"], ["comfortable", "Comfortable"]], kept("density")),
    chosen("Time", clock.utc ? "1" : "", [["", "Local"], ["1", "UTC"]], (value) => {
      clock.utc = value === "1";
      try {
        localStorage.setItem("iii-state-utc", value);
      } catch { /* for this visit only */ }
      tellTimes();
    }),
    chosen("Keys", root.dataset.keys ?? "", [["", "On"], ["off", "Off"]], kept("keys")),
    h("div", { class: "actions" }, button("Close", () => close(null), { autofocus: true })),
  ]);
}

// --- keys

const HELP = [
  ["/", "search"],
  ["g then o d l t x f r", "Overview, Data, Live, Triggers, Dead letters, Fleet, Rates"],
  ["j k, arrows", "next, previous; what is shown follows"],
  ["Enter", "open"],
  ["e", "edit the value"],
  ["c", "create a value"],
  ["Space", "pause or go on, in Live"],
  ["Esc", "back out of what is open"],
  ["?", "this list"],
  ["Ctrl+F", "finds only rows that are on the screen: the filters find all"],
];

function help() {
  dialog("Keys", (close) => [
    h("table", null, h("tbody", null, HELP.map(([key, words]) => h("tr", null, h("th", { scope: "row" }, key), h("td", null, words))))),
    h("p", { class: "muted" }, "Settings turn them off. No key deletes anything at once."),
    h("div", { class: "actions" }, button("Close", () => close(null), { autofocus: true })),
  ]);
}

let goes = 0;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (document.documentElement.dataset.keys === "off" || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (performance.now() - goes < 1500) {
    goes = 0;
    const screen = SCREENS.find(([, , key]) => key === event.key);
    if (screen) {
      event.preventDefault();
      go(screen[0]);
      return;
    }
  }
  if (event.key === "g") goes = performance.now();
  else if (event.key === "?") help();
  else if (event.key === "/") {
    const field = main.querySelector("[data-search]");
    if (!field) return;
    field.focus();
    field.select();
  } else if (event.key === "j" || event.key === "k") {
    const list = document.activeElement?.closest(".list") ?? main.querySelector(".list");
    list?.focus();
    list?.dispatchEvent(new KeyboardEvent("keydown", { key: event.key === "j" ? "ArrowDown" : "ArrowUp" }));
  } else if (!current?.key?.(event)) return;
  event.preventDefault();
});

// --- life

engine.addEventListener("state", () => {
  drawTop();
  if (engine.state === "token") tokenForm();
  else if (engine.state === "refused" && !current)
    replace(main, h("div", { class: "gate" }, h("h1", null, "Not let in"), h("p", null, engine.why), h("p", { class: "muted" }, "The page of the docs called guard says how names and origins are allowed (allow_hosts, allow_origins).")));
});
engine.addEventListener("open", () => {
  if (current) current.reconnected?.();
  else show();
});
engine.addEventListener("replaced", () => {
  top_.append(h("span", { class: "trouble" }, "Another store answers now: what was shown before is of an earlier one."));
  shownPath = null;
  show();
});
addEventListener("hashchange", moved);
addEventListener("popstate", moved);
addEventListener("beforeunload", (event) => {
  if (hasDraft()) event.preventDefault();
});
addEventListener("pagehide", () => engine.close());
addEventListener("pageshow", (event) => {
  if (event.persisted) engine.connect();
});
setInterval(() => {
  if (!document.hidden) tellTimes();
}, 10_000);
addEventListener("resize", debounce(100, () => current?.resized?.()));
drawRail();
drawTop();
engine.connect();
