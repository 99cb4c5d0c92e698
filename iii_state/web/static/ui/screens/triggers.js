// The screen of triggers: who wants which events, who hosts them, what waits, and what can be done about it.

import { button, duration, empty, h, name, now, number, plain, plural, replace, trouble, when } from "../parts/dom.js";
import { confirm } from "../parts/dialog.js";
import { engine, poll } from "../parts/engine.js";
import { parts } from "../parts/json.js";
import { Tree } from "../parts/tree.js";
import { address, go, keepDraft } from "../main.js";

export function open(root, given) {
  return new Triggers(root, given);
}

/** The subscriptions, the one with the oldest waiting event first; each with its own text, to be shown as it is. */
export async function subscriptions() {
  const list = (await engine.call("iii-state::triggers", {})).member("triggers");
  const rows = [...parts(list, 0)].map((part) => {
    const source = list.slice(part.start, part.end);
    return { ...JSON.parse(source), source };
  });
  for (const row of rows) row.mark = row.id ?? JSON.stringify([row.namespace, row.function_id, row.scope, row.key, row.scope_prefix, row.key_prefix, row.delivery]);
  return rows.sort((a, b) => (a.oldest_at_ms ?? Infinity) - (b.oldest_at_ms ?? Infinity) || (a.function_id < b.function_id ? -1 : 1));
}

export function wants(row) {
  const place = [];
  if (row.scope !== null) place.push("scope ", name(row.scope, 100));
  else if (row.scope_prefix) place.push("scopes ", name(row.scope_prefix, 100), "…");
  else place.push("every scope");
  if (row.key !== null) place.push(", key ", name(row.key, 100));
  else if (row.key_prefix) place.push(", keys ", name(row.key_prefix, 100), "…");
  return place;
}

/** Whether it is one of a watch or a page, which look at events and handle nothing. */
export function isWatch(row) {
  return row.function_id.startsWith("iii-state::watch::");
}

function stateOf(row) {
  if (row.paused_at_ms) return h("span", { class: "warn" }, "‖ paused");
  if (row.looping) return h("span", { class: "bad" }, "↻ loops");
  if (!row.hosts.length) return h("span", { class: "bad" }, "✕ no host");
  return h("span", { class: "ok" }, "● served");
}

class Triggers {
  constructor(root, given) {
    keepDraft(null);
    this.found = null;
    this.search = h("input", {
      type: "search",
      id: "trigger-search",
      autocomplete: "off",
      spellcheck: "false",
      "data-search": true,
      oninput: () => go("triggers", { q: this.search.value || undefined, id: this.id ?? undefined }, { instead: true }),
    });
    this.watches = h("input", { type: "checkbox", id: "with-watches", onchange: () => this.draw() });
    this.count = h("p", { class: "count", role: "status" });
    this.place = h("div", null, empty("Loading …"));
    this.detail = h("section", { "aria-label": "The trigger" });
    replace(
      root,
      h("h1", null, "Triggers"),
      h(
        "div",
        { class: "tools" },
        h("label", { for: "trigger-search" }, "Search functions, scopes, keys", this.search),
        h("label", { for: "with-watches", class: "check" }, this.watches, "also watches and pages"),
      ),
      this.count,
      this.place,
      this.detail,
    );
    this.update(given);
    if (!engine.can("iii-state::triggers")) {
      replace(this.place, empty("This token may not see triggers: that takes the right `operate`."));
      this.stop = () => {};
    } else this.stop = poll(2000, () => this.look());
  }

  update(given) {
    this.id = given.get("id") ?? null;
    const wanted = given.get("q") ?? "";
    if (this.search.value !== wanted) this.search.value = wanted;
    if (this.found) this.draw();
  }

  async look() {
    try {
      this.found = await subscriptions();
      this.draw();
    } catch (error) {
      replace(this.place, trouble(error, () => this.look()));
    }
  }

  draw() {
    const wanted = this.search.value.toLowerCase();
    const rows = this.found.filter(
      (row) => (this.watches.checked || !isWatch(row)) && `${row.function_id}\n${row.scope}\n${row.key}\n${row.scope_prefix}\n${row.key_prefix}`.toLowerCase().includes(wanted),
    );
    const hidden = this.found.filter(isWatch).length;
    this.count.textContent = `${number(rows.length)} of ${plural(this.found.length, "subscription")}${this.watches.checked || !hidden ? "" : `; ${plural(hidden, "watch", "watches")} not shown`}`;
    const focused = document.activeElement?.dataset.mark;
    const head = ["Function", "Wants", "State", "Waiting", "Out", "Oldest", "Dead", "Dropped"];
    const sum = rows.length
      ? h(
          "div",
          { class: "scroll" },
          h(
            "table",
            { class: "stack" },
            h("thead", null, h("tr", null, head.map((title, index) => h("th", { class: index > 2 ? "n" : "" }, title)))),
            h("tbody", null, rows.slice(0, 500).map((row) => this.row(row))),
          ),
          rows.length > 500 ? h("p", { class: "muted" }, `${number(rows.length - 500)} more: search for them.`) : null,
        )
      : empty(this.found.length ? "No trigger matches." : "There are no triggers. A worker registers one: registerTrigger of type state.");
    replace(this.place, sum);
    if (focused) this.place.querySelector(`[data-mark="${CSS.escape(focused)}"]`)?.focus();
    const chosen = this.found.find((row) => row.mark === this.id);
    if (!chosen) {
      this.shown = null;
      replace(this.detail, this.id === null ? null : empty("That trigger is gone."));
    } else if (this.shown !== chosen.source) {
      this.shown = chosen.source;
      this.show(chosen);
    }
  }

  row(row) {
    const cell = (label, ...content) => h("td", { class: "n", "data-label": label }, content);
    return h(
      "tr",
      { class: row.mark === this.id ? "chosen" : "" },
      h("th", { scope: "row" }, h("a", { href: address("triggers", { q: this.search.value || undefined, id: row.mark }), "data-mark": row.mark }, name(row.function_id, 100))),
      h("td", { "data-label": "Wants" }, wants(row)),
      h("td", { "data-label": "State" }, stateOf(row)),
      cell("Waiting", number(row.waiting), row.retrying ? ` (${number(row.retrying)} retrying)` : ""),
      cell("Out", number(row.pending)),
      cell("Oldest", row.oldest_at_ms === null ? "–" : duration(now() - row.oldest_at_ms)),
      cell("Dead", row.dead ? h("a", { href: `#/dead?function=${encodeURIComponent(row.function_id)}`, class: "bad" }, number(row.dead)) : "0"),
      cell("Dropped", number(row.dropped)),
    );
  }

  show(row) {
    const acts = [
      ["trigger_pause", "Pause", !row.paused_at_ms, "Hand out no events until it is resumed? Events wait meanwhile."],
      ["trigger_resume", "Resume", Boolean(row.paused_at_ms), "Hand out its events again?"],
      ["trigger_purge", "Purge …", true, (fresh) => `Drop the ${plural(fresh.waiting, "event")} that wait?`],
      ["trigger_remove", "Remove …", !row.hosts.length, "End this subscription, with all that waits?"],
    ].filter(([id, , fits]) => fits && engine.can(`iii-state::${id}`));
    const place = h("div");
    replace(
      this.detail,
      h("h2", null, name(row.function_id)),
      h("p", null, wants(row), row.hosts.length ? [", hosted by ", row.hosts.map((host, index) => [index ? ", " : "", name(host)])] : ", hosted by nobody; its queue waits for its retention"),
      row.oldest_at_ms === null ? null : h("p", null, "The oldest event came ", when(row.oldest_at_ms), "."),
      acts.length ? h("div", { class: "bar" }, acts.map(([id, words, , question]) => button(words, () => this.act(id, words, question, row, place), id === "trigger_remove" || id === "trigger_purge" ? { class: "danger" } : {}))) : null,
      place,
      new Tree(row.source, `Settings of ${plain(row.function_id)}`).element,
    );
  }

  async act(id, words, question, shown, place) {
    await this.look();
    const row = this.found.find((each) => each.mark === shown.mark) ?? shown; // the number is that of now
    const act = words.replace(" …", "");
    const isDangerous = id === "trigger_purge" || id === "trigger_remove";
    const things = isDangerous ? row.waiting : 1;
    if (!(await confirm(`${act} a trigger`, [name(row.function_id), " (", wants(row), "). ", typeof question === "string" ? question : question(row)], isDangerous && row.waiting ? `${act} (${number(row.waiting)})` : act, { things, danger: isDangerous }))) return;
    try {
      await engine.call(`iii-state::${id}`, row.id ? { id: row.id } : { function_id: row.function_id }, { changes: true });
      await this.look();
    } catch (error) {
      replace(place, trouble(error));
    }
  }

  close() {
    this.stop();
  }
}
