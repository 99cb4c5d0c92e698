// The screen of rates: what this engine counts, as differences between two looks, kept in this tab for an hour.

import { button, duration, empty, h, instant, number, replace, s, timeOfDay } from "../parts/dom.js";
import { engine, poll } from "../parts/engine.js";
import { keepDraft } from "../main.js";

const LOOK_MS = 2000;
const HOUR = 3_600_000;
const POINTS = 300;

export const figures = {
  /** `{at, values: {series: number}}`, the oldest first, as far back as anything was looked at in this tab, one hour at most. */
  samples: [],
  last: null,

  async look() {
    const told = await engine.ask("iii-state::figures");
    const before = this.last;
    this.last = told;
    if (!before || told.at_ms <= before.at_ms || told.at_ms - before.at_ms > 5 * LOOK_MS) {
      if (before) this.samples.push({ at: told.at_ms, values: null });
      return;
    }
    this.samples.push({ at: told.at_ms, values: derive(before, told) });
    while (this.samples.length && this.samples[0].at < told.at_ms - HOUR) this.samples.shift();
  },
};

function sum(told, name, fits = () => true) {
  let found = 0;
  for (const row of told.figures) if (row.name === name && fits(row.labels) && typeof row.value === "number") found += row.value;
  return found;
}

const asked = (labels) => labels.function.startsWith("state::");

/** Rates a second, and latencies in milliseconds, of what was counted between two looks. */
function derive(before, after) {
  const seconds = (after.at_ms - before.at_ms) / 1000;
  const rate = (name, fits) => Math.max(0, sum(after, name, fits) - sum(before, name, fits)) / seconds;
  const values = {
    calls: rate("iii_state_calls_total", asked),
    errors: rate("iii_state_calls_total", (labels) => asked(labels) && labels.code !== "ok"),
    handled: rate("iii_state_deliveries_total", (labels) => labels.outcome === "handled"),
    retried: rate("iii_state_deliveries_total", (labels) => labels.outcome === "retried" || labels.outcome === "crashed"),
    dead: rate("iii_state_deliveries_total", (labels) => labels.outcome === "dead"),
    inFlight: sum(after, "iii_state_calls_in_flight", asked),
  };
  const buckets = new Array(after.bounds.length + 1).fill(0);
  const earlier = new Map(before.figures.filter((row) => row.name === "iii_state_call_duration_seconds").map((row) => [row.labels.function, row.value.buckets]));
  for (const row of after.figures) {
    if (row.name !== "iii_state_call_duration_seconds" || !asked(row.labels)) continue;
    row.value.buckets.forEach((count, index) => (buckets[index] += count - (earlier.get(row.labels.function)?.[index] ?? 0)));
  }
  values.median = quantile(buckets, after.bounds, 0.5);
  values.slow = quantile(buckets, after.bounds, 0.99);
  return values;
}

function quantile(buckets, bounds, part) {
  const all = buckets.reduce((a, b) => a + b, 0);
  if (!all) return null;
  let left = all * part;
  for (let index = 0; index < buckets.length; index++) {
    if (left <= buckets[index]) {
      const low = index ? bounds[index - 1] : 0;
      const high = bounds[Math.min(index, bounds.length - 1)];
      return (low + (high - low) * (buckets[index] ? left / buckets[index] : 0)) * 1000;
    }
    left -= buckets[index];
  }
  return bounds.at(-1) * 1000;
}

/** A chart of a series: one path, the least and the most of each step, gaps as gaps; the last value as text. */
export function chart(title, key, unit, span) {
  const samples = figures.samples;
  const to = figures.last?.at_ms ?? 0;
  const from = to - span;
  const steps = POINTS / 2;
  const cells = new Map();
  let most = 0;
  for (const { at, values } of samples) {
    if (at < from) continue;
    const step = Math.min(steps - 1, Math.floor(((at - from) / span) * steps));
    const value = values?.[key];
    if (value === null || value === undefined) continue;
    const cell = cells.get(step) ?? { least: value, most: value, at };
    cell.least = Math.min(cell.least, value);
    cell.most = Math.max(cell.most, value);
    cells.set(step, cell);
    most = Math.max(most, value);
  }
  const wide = Math.max(1, Math.ceil((LOOK_MS * 2.5) / (span / steps)));
  let path = "";
  let earlier = null;
  const y = (value) => (94 - (most ? value / most : 0) * 88).toFixed(1);
  for (const [step, cell] of [...cells].sort((a, b) => a[0] - b[0])) {
    const x = ((step / (steps - 1)) * 300).toFixed(1);
    path += `${earlier !== null && step - earlier <= wide ? "L" : "M"}${x} ${y(cell.most)}`;
    path += cell.least === cell.most ? `${earlier !== null && step - earlier <= wide ? "" : "h.1"}` : `L${x} ${y(cell.least)}`;
    earlier = step;
  }
  const last = samples.at(-1)?.values?.[key];
  const now_ = last === null || last === undefined ? "–" : `${number(last)} ${unit}`;
  return h(
    "section",
    { class: "card" },
    h("h2", null, title),
    h("div", { class: "big" }, now_),
    s("svg", { class: "chart", viewBox: "0 0 300 96", preserveAspectRatio: "none", role: "img", "aria-label": `${title}: now ${now_}, at most ${number(most)} ${unit} in ${duration(span)}` }, s("line", { x1: 0, y1: 94, x2: 300, y2: 94 }), s("path", { d: path })),
    h("div", { class: "chart-ends" }, h("span", null, to ? timeOfDay(from) : ""), h("span", null, `at most ${number(most)} ${unit}`), h("span", null, to ? timeOfDay(to) : "")),
  );
}

export const SERIES = [
  ["Calls of state", "calls", "/s"],
  ["Errors", "errors", "/s"],
  ["Latency, median", "median", "ms"],
  ["Latency, 99 %", "slow", "ms"],
  ["Deliveries handled", "handled", "/s"],
  ["Deliveries retried", "retried", "/s"],
  ["Dead letters made", "dead", "/s"],
  ["Calls in flight", "inFlight", ""],
];

export function open(root) {
  keepDraft(null);
  const span = h("select", { id: "span" }, [5, 15, 60].map((minutes) => h("option", { value: minutes * 60_000 }, `${minutes} minutes`)));
  const place = h("div", { class: "cards" });
  const rows = h("div");
  const note = h("p", { class: "muted" });
  let asTable = false;
  const table = button("As a table", () => {
    asTable = !asTable;
    table.setAttribute("aria-pressed", String(asTable));
    draw();
  }, { "aria-pressed": "false" });
  const draw = () => {
    replace(place, SERIES.map(([title, key, unit]) => chart(title, key, unit, Number(span.value))));
    const about = figures.last ? `Of this engine alone, ${engine.about?.engine ?? ""}, since this tab looks; a look every ${LOOK_MS / 1000} s; one call in sixteen is timed. As of ${instant(figures.last.at_ms)}.` : "Looking …";
    if (note.textContent !== about) note.textContent = about;
    replace(
      rows,
      asTable
        ? h(
            "div",
            { class: "scroll" },
            h(
              "table",
              null,
              h("thead", null, h("tr", null, h("th", null, "Time"), SERIES.map(([title, , unit]) => h("th", { class: "n" }, `${title} ${unit}`)))),
              h("tbody", null, figures.samples.slice(-60).reverse().map(({ at, values }) => h("tr", null, h("th", { scope: "row" }, timeOfDay(at)), SERIES.map(([, key]) => h("td", { class: "n" }, values ? number(values[key]) : "gap"))))),
            ),
          )
        : null,
    );
  };
  span.addEventListener("change", draw);
  replace(root, h("h1", null, "Rates"), h("div", { class: "tools" }, h("label", { for: "span" }, "The last", span), table), note, place, rows);
  if (!engine.can("iii-state::figures")) {
    replace(place, empty("This token may not see figures (the right `operate`), or this engine is an older one that tells none."));
    return { update() {}, close() {} };
  }
  draw();
  const stop = poll(LOOK_MS, async () => {
    await figures.look();
    draw();
  });
  return { update() {}, close: stop };
}
