// Makes elements out of text, never out of markup; shows names so that none of their characters hides; tells the time.

const SVG = "http://www.w3.org/2000/svg";
const HIDDEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e0fff}]|[\ud800-\udfff](?![\udc00-\udfff])/gu;

/** An element. `attributes`: text, booleans, and `on…` functions. Children: nodes, text, arrays of them; null is left out. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function s(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function button(text, onclick, attributes) {
  return h("button", { type: "button", ...attributes, onclick }, text);
}

/** A text with the characters that cannot be seen written out, clipped at `most` characters. `lines`: but for line ends. */
export function visible(text, most = 500, lines = false) {
  const clipped = text.length > most ? text.slice(0, most) : text;
  const found = [];
  let from = 0;
  for (const match of clipped.matchAll(HIDDEN)) {
    if (lines && match[0] === "\n") continue;
    if (match.index > from) found.push(clipped.slice(from, match.index));
    found.push(h("span", { class: "escape" }, `\\u{${match[0].codePointAt(0).toString(16)}}`));
    from = match.index + match[0].length;
  }
  if (from < clipped.length) found.push(clipped.slice(from));
  if (text.length > most) found.push(h("span", { class: "muted" }, ` … ${number(text.length)} characters`));
  return found;
}

/** A name of a scope, a key or a function, isolated from what stands around it. */
export function name(text, most = 500) {
  if (text === "") return h("span", { class: "muted" }, "(empty name)");
  return h("bdi", { class: "name" }, visible(text, most));
}

/** A name as plain text, for titles and labels of elements. */
export function plain(text, most = 120) {
  if (text === "") return "(empty name)";
  const clipped = text.length > most ? `${text.slice(0, most)}…` : text;
  return clipped.replace(HIDDEN, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);
}

export function number(value) {
  return Number.isFinite(value) ? value.toLocaleString("en-US", { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 }) : "–";
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  return count < 1024 * 1024 ? `${number(count / 1024)} KB` : `${number(count / 1024 / 1024)} MB`;
}

export function plural(count, word, many = `${word}s`) {
  return `${number(count)} ${count === 1 ? word : many}`;
}

export function debounce(milliseconds, act) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), milliseconds);
  };
}

// --- time, by the engine's clock

export const clock = { offset: 0, utc: false };
try {
  clock.utc = localStorage.getItem("iii-state-utc") === "1";
} catch { /* local time */ }

export function now() {
  return Date.now() + clock.offset;
}

function parts(ms) {
  const date = new Date(ms);
  const get = (what) => (clock.utc ? date[`getUTC${what}`]() : date[`get${what}`]());
  const two = (value) => String(value).padStart(2, "0");
  return {
    day: `${get("FullYear")}-${two(get("Month") + 1)}-${two(get("Date"))}`,
    time: `${two(get("Hours"))}:${two(get("Minutes"))}:${two(get("Seconds"))}`,
  };
}

function zone(ms) {
  const minutes = clock.utc ? 0 : -new Date(ms).getTimezoneOffset();
  if (!minutes) return "UTC";
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `UTC${minutes < 0 ? "-" : "+"}${two(Math.abs(minutes) / 60)}:${two(Math.abs(minutes) % 60)}`;
}

export function instant(ms) {
  const { day, time } = parts(ms);
  return `${day} ${time} ${zone(ms)}`;
}

export function timeOfDay(ms) {
  return parts(ms).time;
}

export function duration(ms) {
  const seconds = Math.round(Math.abs(ms) / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

function told(ms) {
  const ago = now() - ms;
  return ago >= 0 ? `${duration(ago)} ago` : `in ${duration(ago)}`;
}

/** How long ago an instant was, or is to come; in full when it is looked at. It is kept right while it is shown. */
export function when(ms) {
  return h("time", { datetime: new Date(ms).toISOString(), "data-at": ms, title: instant(ms), tabindex: "0" }, told(ms));
}

export function tellTimes() {
  for (const element of document.querySelectorAll("time[data-at]")) {
    const text = told(Number(element.dataset.at));
    if (element.textContent !== text) element.textContent = text;
    element.title = instant(Number(element.dataset.at));
  }
}

// --- what is said to people

export function say(text) {
  const place = document.getElementById("polite");
  if (place.textContent !== text) place.textContent = text;
}

const ADVICE = {
  FORBIDDEN: "Ask for a token with that right, or use another one.",
  OUTCOME_UNKNOWN: "It may have been applied or not: read the value again before you try again.",
  CONNECTION_LOST: "The page connects again by itself.",
  CONDITION_FAILED: "It has changed meanwhile.",
  UNSUPPORTED: "An older engine answers: upgrade it to use this.",
  TIMEOUT: "The engine or its store is slow, or away.",
  COMPACTED: "That part of the change log is kept no more.",
  VALUE_TOO_LARGE: "Make it smaller, or raise max_value_bytes.",
};

/** An error where it happened: its code, its message, what to do, and `retry` where that makes sense. */
export function trouble(error, retry) {
  const code = error.code ?? "error";
  return h(
    "div",
    { class: "trouble", role: "alert" },
    h("strong", null, `✕ ${code}`),
    h("span", { class: "words" }, visible(String(error.message ?? error), 2000)),
    ADVICE[code] ? h("span", { class: "muted" }, ADVICE[code]) : null,
    retry ? button("Retry", retry) : null,
  );
}

export function empty(...words) {
  return h("div", { class: "empty" }, words);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}

export function toast(text) {
  const shown = h("div", { class: "toast", role: "status" }, text);
  document.body.append(shown);
  setTimeout(() => shown.remove(), 3000);
}

/** Words that are shown when something has taken 200 ms, in `place`; returns what ends that. */
export function waiting(place, words = "Loading …") {
  const timer = setTimeout(() => replace(place, h("div", { class: "empty" }, words)), 200);
  return () => clearTimeout(timer);
}
