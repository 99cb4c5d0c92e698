// The screen of dead letters: grouped by function and error; retried and dropped one, several, or all that are meant.

import { button, empty, h, name, number, plural, replace, trouble, visible, when } from "../parts/dom.js";
import { confirm, eachOf } from "../parts/dialog.js";
import { engine } from "../parts/engine.js";
import { members, parts } from "../parts/json.js";
import { Tree } from "../parts/tree.js";
import { go, keepDraft } from "../main.js";

const PAGE = 1000;
const SHOWN = 500;

export function open(root, given) {
  return new Dead(root, given);
}

class Dead {
  constructor(root, given) {
    keepDraft(null);
    this.rows = [];
    this.total = 0;
    this.selected = new Set();
    this.turn = 0;
    this.choice = h("select", { id: "dead-function", onchange: () => go("dead", { function: this.choice.value || undefined }) });
    this.errors = h("input", { type: "search", id: "dead-error", autocomplete: "off", spellcheck: "false", "data-search": true, oninput: () => this.draw() });
    this.count = h("p", { class: "count", role: "status" });
    this.bar = h("div", { class: "bar" });
    this.place = h("div", null, empty("Loading …"));
    this.detail = h("section", { "aria-label": "The dead letter" });
    replace(
      root,
      h("h1", null, "Dead letters"),
      h("div", { class: "tools" }, h("label", { for: "dead-function" }, "Function", this.choice), h("label", { for: "dead-error" }, "Filter what is loaded by error, scope, key", this.errors), button("Reload", () => this.load())),
      this.count,
      this.bar,
      this.place,
      this.detail,
    );
    this.id = null;
    this.update(given);
  }

  update(given) {
    const wanted = given.get("function") ?? null;
    const id = given.get("id") ?? null;
    if (!engine.can("iii-state::dead_list")) {
      replace(this.place, empty("This token may not see dead letters: that takes the right `operate`."));
      return;
    }
    if (wanted !== this.function || !this.isLoaded) {
      this.function = wanted;
      this.load();
    }
    this.id = id;
    this.show();
  }

  reconnected() {
    this.load();
  }

  get request() {
    return this.function === null ? {} : { function_id: this.function };
  }

  async load() {
    const mine = ++this.turn;
    this.isLoaded = true;
    this.selected.clear();
    try {
      const [found, stats] = await Promise.all([engine.ask("iii-state::dead_list", { ...this.request, limit: PAGE }), engine.ask("iii-state::triggers")]);
      if (mine !== this.turn) return;
      this.rows = found.dead;
      this.total = found.total;
      const functions = new Set([...stats.triggers.filter((row) => row.dead).map((row) => row.function_id), ...found.dead.map((row) => row.function_id), ...(this.function === null ? [] : [this.function])]);
      replace(this.choice, h("option", { value: "" }, "all functions"), [...functions].sort().map((id) => h("option", { value: id, selected: id === this.function }, id)));
      this.draw();
    } catch (error) {
      if (mine === this.turn) replace(this.place, trouble(error, () => this.load()));
    }
  }

  get shown() {
    const wanted = this.errors.value.toLowerCase();
    if (wanted === "") return this.rows;
    return this.rows.filter((row) => `${row.error}\n${row.scope}\n${row.key}`.toLowerCase().includes(wanted));
  }

  draw() {
    const shown = this.shown;
    const isWhole = this.rows.length >= this.total;
    const loaded = isWhole ? `${plural(this.total, "dead letter")}, all` : `${number(this.rows.length)} loaded of ${number(this.total)}`;
    this.count.textContent = this.errors.value === "" ? loaded : `${number(shown.length)} of ${loaded}`;
    const ids = [...this.selected];
    const filtered = this.errors.value !== "";
    replace(
      this.bar,
      ids.length
        ? [
            button(`Retry ${number(ids.length)} selected`, () => this.actOn("retry", async () => ids)),
            button(`Drop ${number(ids.length)} selected`, () => this.actOn("drop", async () => ids), { class: "danger" }),
          ]
        : null,
      filtered && shown.length
        ? [
            button(`Retry ${number(shown.length)} shown`, () => this.actOn("retry", async () => shown.map((row) => row.id))),
            button(`Drop ${number(shown.length)} shown`, () => this.actOn("drop", async () => shown.map((row) => row.id)), { class: "danger" }),
          ]
        : null,
      !filtered && !ids.length && this.total
        ? [
            button(`Retry ${number(this.total)}`, () => this.actOn("retry", () => this.all(), this.total)),
            button(`Drop ${number(this.total)}`, () => this.actOn("drop", () => this.all(), this.total), { class: "danger" }),
          ]
        : null,
    );
    if (!this.rows.length) {
      replace(this.place, empty(this.function === null ? "No dead letters: every event was handled, or is still tried." : "This function has no dead letters."));
      return;
    }
    const groups = new Map();
    for (const row of shown.slice(0, SHOWN)) {
      const key = `${row.function_id}\n${row.error}`;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    replace(
      this.place,
      [...groups.values()].map((rows) => this.group(rows)),
      shown.length > SHOWN ? h("p", { class: "muted" }, `${number(shown.length - SHOWN)} more are not shown here; the buttons above count them.`) : null,
      shown.length ? null : empty("None of those that are loaded matches."),
    );
  }

  group(rows) {
    const all = h("input", { type: "checkbox", "aria-label": "Select this group" });
    all.checked = rows.every((row) => this.selected.has(row.id));
    all.onchange = () => {
      for (const row of rows) all.checked ? this.selected.add(row.id) : this.selected.delete(row.id);
      this.draw();
    };
    return h(
      "section",
      null,
      h("h2", null, name(rows[0].function_id, 100), ` – ${number(rows.length)}`),
      h("p", { class: "bad words" }, visible(rows[0].error, 400)),
      h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "stack" },
          h("thead", null, h("tr", null, h("th", null, all), ["Scope", "Key", "Kind", "Attempts", "Since", ""].map((title) => h("th", null, title || h("span", { class: "unseen" }, "Actions"))))),
          h("tbody", null, rows.map((row) => this.row(row))),
        ),
      ),
    );
  }

  row(row) {
    const box = h("input", { type: "checkbox", "aria-label": "Select this dead letter" });
    box.checked = this.selected.has(row.id);
    box.onchange = () => {
      if (box.checked) this.selected.add(row.id);
      else this.selected.delete(row.id);
      this.draw();
      this.place.querySelector(`[data-id="${CSS.escape(row.id)}"] input`)?.focus();
    };
    return h(
      "tr",
      { "data-id": row.id, class: row.id === this.id ? "chosen" : "" },
      h("td", null, box),
      h("td", { "data-label": "Scope" }, name(row.scope, 100)),
      h("td", { "data-label": "Key" }, name(row.key, 100)),
      h("td", { "data-label": "Kind" }, row.event_type.replace("state:", ""), row.cause ? ` (${row.cause})` : ""),
      h("td", { "data-label": "Attempts" }, number(row.attempts)),
      h("td", { "data-label": "Since" }, when(row.buried_at_ms)),
      h("td", null, button("Show", () => go("dead", { function: this.function ?? undefined, id: row.id })), " ", button("Retry", () => this.actOn("retry", async () => [row.id]))),
    );
  }

  async show() {
    if (this.id === null) {
      replace(this.detail);
      return;
    }
    const id = this.id;
    try {
      const reply = await engine.call("iii-state::dead_show", { id });
      if (id !== this.id) return;
      const list = reply.member("dead");
      const first = parts(list, 0).next().value;
      const source = list.slice(first.start, first.end);
      const row = JSON.parse(source);
      const event = source.slice(...members(source).get("event"));
      replace(
        this.detail,
        h("h2", { tabindex: "-1" }, name(row.function_id)),
        h("p", { class: "bad words" }, visible(row.error, 4000)),
        h("p", null, `${plural(row.attempts, "attempt")}, dead since `, when(row.buried_at_ms), ". Scope ", name(row.scope), ", key ", name(row.key), "."),
        h(
          "div",
          { class: "bar" },
          button("Retry", () => this.actOn("retry", async () => [id])),
          button("Drop …", () => this.actOn("drop", async () => [id]), { class: "danger" }),
          button("Open the value", () => go("data", { scope: row.scope, key: row.key })),
          button("Close", () => go("dead", { function: this.function ?? undefined })),
        ),
        new Tree(event, "Event").element,
      );
      this.detail.scrollIntoView({ block: "nearest" });
    } catch (error) {
      replace(this.detail, error.code === "NOT_FOUND" ? empty("That dead letter is gone: it was retried or dropped.") : trouble(error, () => this.show()));
    }
  }

  /** The ids of all that are meant, however many, as they are now. */
  async all() {
    const found = [];
    let after;
    for (;;) {
      const page = await engine.ask("iii-state::dead_list", { ...this.request, limit: PAGE, after });
      found.push(...page.dead.map((row) => row.id));
      if (page.dead.length < PAGE) return found;
      after = found.at(-1);
    }
  }

  async actOn(act, find, most = null) {
    let ids;
    try {
      ids = await find();
    } catch (error) {
      replace(this.bar, trouble(error, () => this.load()));
      return;
    }
    const words = act === "retry" ? "Deliver again, as a first attempt, " : "Drop for good ";
    const label = `${act === "retry" ? "Retry" : "Drop"} ${number(ids.length)}`;
    const about = [words, plural(ids.length, "dead letter"), this.function === null ? "" : [" of ", name(this.function)], most !== null && most !== ids.length ? ` (there were ${number(most)} a moment ago)` : "", "?"];
    if (!(await confirm(label, about, label, { things: ids.length, danger: act === "drop" }))) return;
    const done = act === "retry" ? "retried" : "dropped";
    const step = (id) => engine.call(`iii-state::dead_${act}`, { id }, { changes: true });
    if (ids.length === 1) {
      try {
        await step(ids[0]);
      } catch (error) {
        this.detail.prepend(trouble(error));
        return;
      }
    } else await eachOf(label, ids.map((id) => ({ id, label: id })), (thing) => step(thing.id), done);
    if (this.id !== null && ids.includes(this.id)) go("dead", { function: this.function ?? undefined }, { instead: true });
    await this.load();
  }

  close() {
    this.turn++;
  }
}
