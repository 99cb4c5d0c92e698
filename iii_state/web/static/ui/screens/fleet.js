// The screen of engines and workers: who is there, what each hosts, when it was heard of last.

import { duration, empty, h, name, now, number, plural, replace, trouble, when } from "../parts/dom.js";
import { engine, poll } from "../parts/engine.js";
import { keepDraft } from "../main.js";
import { isWatch, subscriptions } from "./triggers.js";

const GONE_MS = 300_000;
const known = new Map();

/** The engines, those that have gone within the last five minutes among them, as far as this tab has seen them. */
export async function engines() {
  const told = await engine.ask("iii-state::engines");
  for (const row of told.engines) known.set(row.id, { ...row, seen: now() - (row.silent_ms ?? 0), isThere: true });
  const there = new Set(told.engines.map((row) => row.id));
  for (const [id, row] of known) {
    if (there.has(id) || told.health !== null) continue;
    row.isThere = false;
    if (now() - row.seen > GONE_MS) known.delete(id);
  }
  return { ...told, rows: [...known.values()].sort((a, b) => Number(b.isThere) - Number(a.isThere) || (a.name < b.name ? -1 : 1)) };
}

export function open(root) {
  keepDraft(null);
  const health = h("div");
  const first = h("div", null, empty("Loading …"));
  const second = h("div");
  replace(root, h("h1", null, "Fleet"), health, h("h2", null, "Engines"), first, h("h2", null, "Workers"), second);
  const look = async () => {
    if (engine.can("iii-state::engines")) {
      try {
        const [told, triggers] = await Promise.all([engines(), subscriptions().catch(() => [])]);
        replace(
          health,
          told.health === null ? h("p", { class: "ok" }, "● The store answers.") : h("div", { class: "trouble", role: "alert" }, h("strong", null, "✕ The store does not answer"), told.health),
          h("p", null, `Adapter ${told.adapter}, store ${engine.store ?? "unknown"}. Features: ${[...engine.features].join(", ") || "none"}.`),
        );
        replace(first, engineTable(told, triggers));
      } catch (error) {
        replace(first, trouble(error, look));
      }
    } else replace(first, empty(engine.operates ? "This engine is an older one, and does not list engines." : "This token may not list engines: that takes the right `operate`."));
    try {
      const { workers } = await engine.ask("engine::workers::list");
      replace(second, workers.length ? workerTable(workers) : empty("No worker is connected to this engine, but for pages like this one."));
    } catch (error) {
      replace(second, trouble(error, look));
    }
  };
  return { update() {}, close: poll(3000, look) };
}

function engineTable(told, triggers) {
  const hosted = (row) => triggers.filter((trigger) => !isWatch(trigger) && trigger.hosts.includes(row.name));
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "stack" },
      h("thead", null, h("tr", null, ["Engine", "State", "Last heard of", "Reads", "Hosts"].map((title) => h("th", null, title)))),
      h(
        "tbody",
        null,
        told.rows.map((row) => {
          const late = row.isThere && row.silent_ms !== null && row.gone_ms !== null && row.silent_ms > row.gone_ms * 0.7;
          const state = !row.isThere
            ? h("span", { class: "bad" }, `✕ gone; leaves this list ${duration(GONE_MS)} after it was heard of last`)
            : late
              ? h("span", { class: "warn" }, `◐ silent; counts as gone after ${duration(row.gone_ms)}`)
              : h("span", { class: "ok" }, "● there");
          const own = hosted(row);
          return h(
            "tr",
            null,
            h("th", { scope: "row" }, name(row.name), row.name === told.this ? h("span", { class: "muted" }, " (this one)") : null),
            h("td", { "data-label": "State" }, state),
            h("td", { "data-label": "Last heard of" }, row.silent_ms === null ? "now" : when(row.seen)),
            h("td", { "data-label": "Reads" }, row.features.join(", ") || "–"),
            h("td", { "data-label": "Hosts" }, own.length ? h("details", null, h("summary", null, plural(own.length, "trigger")), h("ul", null, own.slice(0, 100).map((trigger) => h("li", null, name(trigger.function_id, 100))))) : "no triggers"),
          );
        }),
      ),
    ),
  );
}

function workerTable(workers) {
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "stack" },
      h("thead", null, h("tr", null, ["Worker", "Runtime", "Address", "Connected", "Runs now", "Functions"].map((title) => h("th", null, title)))),
      h(
        "tbody",
        null,
        workers.map((row) =>
          h(
            "tr",
            null,
            h("th", { scope: "row" }, name(row.name ?? row.id, 100)),
            h("td", { "data-label": "Runtime" }, `${row.runtime ?? "–"} ${row.version ?? ""}, pid ${row.pid}`),
            h("td", { "data-label": "Address" }, row.ip_address ?? "–"),
            h("td", { "data-label": "Connected" }, when(row.connected_at_ms)),
            h("td", { "data-label": "Runs now" }, number(row.active_invocations)),
            h("td", { "data-label": "Functions" }, row.functions.length ? h("details", null, h("summary", null, plural(row.function_count, "function")), h("ul", null, row.functions.slice(0, 200).map((id) => h("li", null, name(id, 100))))) : "none"),
          ),
        ),
      ),
    ),
  );
}
