// The first screen: is all well, how much goes on, and what needs a person.

import { duration, empty, h, name, now, number, plural, replace, trouble } from "../parts/dom.js";
import { engine, poll } from "../parts/engine.js";
import { keepDraft } from "../main.js";
import { engines } from "./fleet.js";
import { SERIES, chart, figures } from "./rates.js";
import { isWatch, subscriptions } from "./triggers.js";

const LATE_MS = 60_000;

export function open(root) {
  keepDraft(null);
  const health = h("div", null, empty("Loading …"));
  const needs = h("div");
  const charts = h("div", { class: "cards" });
  replace(root, h("h1", null, "Overview"), health, h("h2", null, "What needs a person"), needs, h("h2", null, "This engine, the last 5 minutes"), charts);
  if (!engine.operates || !engine.can("iii-state::engines")) {
    const why = engine.operates ? "This engine is an older one, and does not tell that." : "This token may see values, and not how the engine does: that takes the right `operate`.";
    replace(health, h("p", { class: "ok" }, "● Connected."));
    replace(needs, empty(why, " ", h("a", { href: "#/data" }, "Data")));
    replace(charts, empty("–"));
    return { update() {}, close() {} };
  }
  const look = async () => {
    try {
      const told = await engines();
      const triggers = told.health === null ? await subscriptions() : [];
      const there = told.rows.filter((row) => row.isThere);
      const own = triggers.filter((row) => !isWatch(row));
      replace(
        health,
        h("p", { class: told.health === null ? "ok" : "bad" }, told.health === null ? "● The store answers." : `✕ The store does not answer: ${told.health}`),
        h(
          "div",
          { class: "cards numbers" },
          card("Engines", number(there.length), "#/fleet", told.adapter),
          card("Triggers", number(own.length), "#/triggers", plural(triggers.length - own.length, "watch", "watches")),
          card("Waiting", number(total(own, "waiting")), "#/triggers", `${number(total(own, "pending"))} handed out`),
          card("Dead letters", number(total(triggers, "dead")), "#/dead", `${number(total(own, "dropped"))} events dropped so far`),
        ),
      );
      replace(needs, told.health === null ? needed(told, triggers, own) : h("p", { class: "bad" }, "✕ The store: nothing is read, written or delivered until it answers."));
    } catch (error) {
      replace(health, trouble(error, look));
    }
  };
  const stops = [
    poll(3000, look),
    poll(2000, async () => {
      await figures.look();
      replace(charts, SERIES.slice(0, 4).map(([title, key, unit]) => chart(title, key, unit, 300_000)));
    }),
  ];
  return { update() {}, close: () => stops.forEach((stop) => stop()) };
}

function total(rows, key) {
  return rows.reduce((sum, row) => sum + row[key], 0);
}

function card(title, value, href, about) {
  return h("section", { class: "card" }, h("h2", null, h("a", { href }, title)), h("div", { class: "big" }, value), h("div", { class: "muted" }, about));
}

function needed(told, triggers, own) {
  const found = [];
  for (const row of own.filter((each) => each.dead).slice(0, 10))
    found.push([h("span", { class: "bad" }, "✕ "), h("a", { href: `#/dead?function=${encodeURIComponent(row.function_id)}` }, plural(row.dead, "dead letter")), " of ", name(row.function_id, 100)]);
  for (const row of own.filter((each) => each.paused_at_ms).slice(0, 10)) found.push([h("span", { class: "warn" }, "‖ "), name(row.function_id, 100), " is paused"]);
  for (const row of own.filter((each) => each.looping).slice(0, 10)) found.push([h("span", { class: "bad" }, "↻ "), name(row.function_id, 100), " leads to itself"]);
  for (const row of own.filter((each) => !each.hosts.length).slice(0, 10))
    found.push([h("span", { class: "bad" }, "✕ "), name(row.function_id, 100), ` has no host, and ${plural(row.waiting, "event")} waiting`]);
  for (const row of own.filter((each) => each.oldest_at_ms !== null && now() - each.oldest_at_ms > LATE_MS).slice(0, 10))
    found.push([h("span", { class: "warn" }, "◐ "), "The oldest event of ", name(row.function_id, 100), ` waits for ${duration(now() - row.oldest_at_ms)}`]);
  for (const row of told.rows.filter((each) => !each.isThere)) found.push([h("span", { class: "bad" }, "✕ "), "The engine ", name(row.name, 100), " has gone"]);
  return found.length ? h("ul", null, found.map((words) => h("li", null, words))) : h("p", { class: "ok" }, "● Nothing.");
}
