// One value: as a tree and as text, with what else is known of it, its history, and who hears of it.

import { button, bytes, copy, empty, h, name, now, number, plain, replace, trouble, visible, waiting, when } from "../parts/dom.js";
import { confirm } from "../parts/dialog.js";
import { diffTable } from "../parts/diff.js";
import { engine } from "../parts/engine.js";
import { format, members, parts, unframed } from "../parts/json.js";
import { Tree } from "../parts/tree.js";
import { go, keepDraft } from "../main.js";
import { Editor, noteOwn } from "./edit.js";

const LARGE = 1024 * 1024;
const FIRST = 64 * 1024;
const TABS = ["tree", "text", "history", "listeners"];

export class ValuePane {
  constructor(changed) {
    this.changed = changed;
    this.element = h("div", { class: "value-box" });
    this.tab = "tree";
    this.key = null;
    this.scope = null;
    this.turn = 0;
    this.clear();
  }

  clear() {
    this.turn++;
    this.scope = this.key = this.found = null;
    this.stopEditing();
    replace(this.element, empty("Choose a key."));
  }

  show(scope, key) {
    if (scope === this.scope && key === this.key) return;
    this.stopEditing();
    this.scope = scope;
    this.key = key;
    this.found = null;
    this.isAsked = false;
    this.reload();
  }

  async reload() {
    if (this.key === null || this.editor) return;
    const mine = ++this.turn;
    const { scope, key } = this;
    const done = this.found ? () => {} : waiting(this.element);
    try {
      const found = await read(scope, key);
      if (mine !== this.turn) return;
      done();
      this.found = found;
      this.draw();
    } catch (error) {
      if (mine !== this.turn) return;
      done();
      replace(this.element, this.head(), trouble(error, () => this.reload()));
    }
  }

  head(...more) {
    return [
      h(
        "div",
        { class: "head" },
        button("‹ Keys", () => go("data", { scope: this.scope }), { class: "back quiet" }),
        h("h2", { title: plain(this.key, 1000) }, name(this.key)),
      ),
      ...more,
    ];
  }

  draw() {
    const { found } = this;
    if (found.text === null) {
      replace(this.element, this.head(), empty(h("p", null, "There is nothing at this key."), h("p", null, "It was deleted, has expired, or was never there.")));
      return;
    }
    const why = engine.readOnly;
    const facts = [
      ["Size", bytes(found.size)],
      found.etag ? ["Etag", h("span", { class: "mono", title: found.etag }, found.etag.slice(0, 12))] : null,
      found.revision !== null ? ["Revision", number(found.revision)] : null,
      ["Expires", found.expires === null ? "never" : when(found.expires)],
      ["Read", when(found.at)],
    ].filter(Boolean);
    const tabs = TABS.filter((tab) => (tab !== "history" || found.revision !== null) && (tab !== "listeners" || engine.operates));
    if (!tabs.includes(this.tab)) this.tab = "tree";
    this.body = h("div", { class: "body", role: "tabpanel", id: "value-body", "aria-labelledby": `tab-${this.tab}`, tabindex: "-1" });
    replace(
      this.element,
      this.head(),
      h("dl", { class: "facts" }, facts.map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value)))),
      h(
        "div",
        { class: "bar" },
        h("button", { type: "button", class: "primary", disabled: why !== null, title: why ?? "", onclick: () => this.edit() }, "Edit"),
        button("Copy", () => copy(found.text)),
        button("Download", () => download(`${plain(this.key, 60)}.json`, found.text)),
        button("Reload", () => this.reload()),
        button("Watch", () => go("live", { scope: this.scope, key: this.key })),
        h("button", { type: "button", class: "danger", disabled: why !== null || !engine.can("state::delete"), title: why ?? "", onclick: () => this.remove() }, "Delete …"),
        why ? h("span", { class: "muted" }, why) : null,
      ),
      h(
        "div",
        { role: "tablist", class: "tabs", "aria-label": "Views of the value", onkeydown: (event) => this.turnTab(event, tabs) },
        tabs.map((tab) =>
          h(
            "button",
            {
              type: "button",
              role: "tab",
              id: `tab-${tab}`,
              "aria-selected": String(tab === this.tab),
              "aria-controls": "value-body",
              tabindex: tab === this.tab ? "0" : "-1",
              onclick: () => this.openTab(tab),
            },
            { tree: "Tree", text: "Text", history: "History", listeners: "Who listens" }[tab],
          ),
        ),
      ),
      this.body,
    );
    this.drawBody();
  }

  turnTab(event, tabs) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.openTab(tabs[(tabs.indexOf(this.tab) + step + tabs.length) % tabs.length]);
    this.element.querySelector(`#tab-${this.tab}`).focus();
  }

  openTab(tab) {
    this.tab = tab;
    this.draw();
  }

  drawBody() {
    const { text } = this.found;
    if (this.tab === "history") this.history();
    else if (this.tab === "listeners") this.listeners();
    else if (text.length > LARGE && !this.isAsked)
      replace(
        this.body,
        h("p", null, `This value is large: ${bytes(this.found.size)}. Its first ${bytes(FIRST)}:`),
        h("div", { class: "bar" }, button("Show all of it", () => { this.isAsked = true; this.drawBody(); }), button("Download", () => download("value.json", text))),
        h("pre", { class: "text", tabindex: "0" }, visible(text.slice(0, FIRST), FIRST)),
      );
    else if (this.tab === "tree") replace(this.body, new Tree(text).element);
    else replace(this.body, h("pre", { class: "text", tabindex: "0" }, text.length > LARGE ? text : visible(format(text), Infinity, true)));
  }

  async history() {
    const place = replace(this.body, empty("Loading …"));
    const rows = h("div", { class: "changes" });
    const more = h("div");
    let after;
    const load = async (pages = 5) => {
      try {
        const reply = await engine.call("state::history", { scope: this.scope, key: this.key, after, limit: 100 });
        const following = JSON.parse(reply.member("next_after"));
        const list = reply.member("changes");
        let shown = 0;
        for (const part of parts(list, 0)) {
          rows.prepend(changeRow(list.slice(part.start, part.end)));
          shown++;
        }
        const isEnd = following === after || shown === 0;
        after = following;
        if (!isEnd && pages > 1) return void (await load(pages - 1));
        replace(more, isEnd ? h("p", { class: "muted" }, "These are all that the change log keeps, the newest on top.") : button("Load later changes", () => load()));
        replace(place, more, rows);
      } catch (error) {
        replace(more, trouble(error, () => load()));
        replace(place, more, rows);
      }
    };
    await load();
  }

  async listeners() {
    replace(this.body, empty("Loading …"));
    try {
      const { triggers } = await engine.ask("iii-state::triggers");
      const fits = (row) =>
        (row.scope === null || row.scope === this.scope) &&
        (row.key === null || row.key === this.key) &&
        this.scope.startsWith(row.scope_prefix ?? "") &&
        this.key.startsWith(row.key_prefix ?? "");
      const found = triggers.filter(fits);
      replace(
        this.body,
        found.length
          ? h("ul", null, found.map((row) => h("li", null, name(row.function_id), ` – ${row.hosts.length ? "hosted" : "not hosted"}, ${number(row.waiting)} waiting`)))
          : empty("No trigger matches this key."),
      );
    } catch (error) {
      replace(this.body, trouble(error, () => this.listeners()));
    }
  }

  // --- changes

  edit() {
    if (!this.found || this.found.text === null || this.editor || engine.readOnly) return;
    this.editor = new Editor(this.scope, this.key, this.found, (isSaved) => {
      this.stopEditing();
      this.reload().then(() => this.element.querySelector(".bar button")?.focus());
      if (isSaved) this.changed?.();
    });
    keepDraft(() => this.editor?.isChanged ?? false);
    replace(this.element, this.head(), this.editor.element);
    this.editor.focus();
  }

  stopEditing() {
    if (this.editor) keepDraft(null);
    this.editor = null;
  }

  async remove() {
    const { scope, key, found } = this;
    const words = ["Delete the value at key ", name(key), " of scope ", name(scope), "? It is deleted only if it is still what you see here."];
    if (!(await confirm("Delete a value", words, "Delete"))) return;
    try {
      noteOwn(scope, key);
      await engine.call("state::delete", { scope, key, if: [{ etag: found.etag }] }, { changes: true });
      go("data", { scope });
      this.changed?.();
    } catch (error) {
      await this.reload();
      this.element.prepend(trouble(error));
    }
  }
}

export async function read(scope, key) {
  const at = now();
  if (!engine.has("meta")) {
    const reply = await engine.call("state::get", { scope, key });
    const text = reply.span ? unframed(reply.text.slice(...reply.span)) : null;
    return { text, size: text?.length ?? 0, etag: null, revision: null, expires: null, at };
  }
  const reply = await engine.call("state::get", { scope, key, meta: true });
  const found = reply.span ? members(reply.text, reply.span[0]) : new Map();
  const get = (member) => (found.has(member) ? JSON.parse(reply.text.slice(...found.get(member))) : null);
  const etag = get("etag");
  const ttl = get("ttl_ms");
  const text = etag === null ? null : unframed(reply.text.slice(...found.get("value")));
  return { text, size: text === null ? 0 : new Blob([text]).size, etag, revision: get("revision"), expires: ttl === null ? null : at + ttl, at };
}

function changeRow(text) {
  const change = members(text);
  const get = (name_) => text.slice(...change.get(name_));
  const event = get("event");
  const fields = members(event);
  const field = (name_) => (fields.has(name_) ? unframed(event.slice(...fields.get(name_))) : "null");
  const kind = JSON.parse(field("event_type"));
  const [before, after] = [kind === "state:created" ? null : field("old_value"), kind === "state:deleted" ? null : field("new_value")];
  return h(
    "details",
    { class: "change" },
    h("summary", null, `${get("revision")} `, h("span", { class: "kind" }, kind.replace("state:", "")), " ", when(Number(get("at_ms"))), fields.has("cause") ? ` by ${JSON.parse(field("cause"))}` : ""),
    diffTable(before, after),
  );
}

function download(title, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = h("a", { href: address, download: title });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
