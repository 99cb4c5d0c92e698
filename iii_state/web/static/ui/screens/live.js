// The screen of changes as they happen: filtered by the engine, bounded everywhere, with a row wherever something was left out.

import { button, debounce, empty, h, name, now, number, plural, replace, say, timeOfDay, trouble, visible } from "../parts/dom.js";
import { diffTable } from "../parts/diff.js";
import { engine } from "../parts/engine.js";
import { members, parts, unframed } from "../parts/json.js";
import { List } from "../parts/list.js";
import { go, keepDraft } from "../main.js";
import { isOwn } from "./edit.js";

const MOST_ROWS = 2000;
const MOST_CHARACTERS = 8 * 1024 * 1024;
const FRAME_MS = 100;
const CHARACTERS_A_SECOND = 256 * 1024;
const QUEUE = 1000;
const BATCH = 50;
const SHOWN_A_SECOND = 500;
const KINDS = { "": "every kind", created: "created", updated: "updated", deleted: "deleted" };

export function open(root, given) {
  return new Live(root, given);
}

class Live {
  constructor(root, given) {
    keepDraft(null);
    this.rows = [];
    this.waiting = [];
    this.size = 0;
    this.seen = 0;
    this.lost = 0;
    this.cut = 0;
    this.dropped = 0;
    this.isPaused = false;
    this.end = null;
    this.fields = {
      scope: field("live-scope", "Scope (exactly)"),
      scope_prefix: field("live-scope-prefix", "or scopes that begin with"),
      key: field("live-key", "Key (exactly)"),
      key_prefix: field("live-key-prefix", "or keys that begin with"),
    };
    this.kind = h("select", { id: "live-kind" }, Object.entries(KINDS).map(([value, words]) => h("option", { value }, words)));
    const apply = debounce(300, () => this.apply());
    for (const [, input] of Object.values(this.fields)) input.addEventListener("input", apply);
    this.kind.addEventListener("change", apply);
    this.fields.scope[1].setAttribute("data-search", "");
    this.pauseButton = button("Pause", () => this.pause(!this.isPaused), { "aria-pressed": "false" });
    this.state = h("span", { class: "count" });
    this.bar = h("div");
    this.place = h("div");
    this.list = new List({
      label: "Changes, the newest on top",
      row: (row) => this.draw(row),
      choose: (row) => this.show(row),
      preview: (row) => this.show(row),
    });
    this.list.element.addEventListener("pointerdown", () => this.pause(true));
    this.list.element.addEventListener("scroll", () => {
      if (this.list.element.scrollTop > 4 && !this.isPaused) this.pause(true);
    });
    this.detail = h("section", { class: "detail", "aria-label": "The change" }, empty("Choose a change to see what it changed."));
    replace(
      root,
      h(
        "div",
        { class: "live" },
        h("h1", null, "Live"),
        h(
          "details",
          { class: "filters", open: matchMedia("(min-width: 800px)").matches },
          h("summary", null, "Filters"),
          h("div", { class: "tools" }, Object.values(this.fields).map(([label, input]) => h("label", { for: input.id }, label, input)), h("label", { for: "live-kind" }, "Kind", this.kind)),
        ),
        h("div", { class: "bar" }, this.pauseButton, button("Clear", () => this.clear()), this.state),
        this.bar,
        this.place,
        h("div", { class: "rows" }, this.list.element, this.detail),
      ),
    );
    this.update(given);
    this.counts = setInterval(() => {
      if (!document.hidden && this.seen) say(`${number(this.seen)} changes seen, ${number(this.lost)} left out`);
    }, 10_000);
    this.visible = () => this.listen();
    document.addEventListener("visibilitychange", this.visible);
  }

  update(given) {
    for (const [key, [, input]] of Object.entries(this.fields)) if (input.value !== (given.get(key) ?? "")) input.value = given.get(key) ?? "";
    this.given = new Set(given.keys());
    this.kind.value = given.get("kind") ?? "";
    this.listen(true);
  }

  /** What is asked of the engine. A scope that the address names counts, also an empty one. */
  get filter() {
    const found = {};
    for (const [key, [, input]] of Object.entries(this.fields)) if (input.value !== "" || this.given.has(key)) found[key] = input.value;
    if (found.scope !== undefined) delete found.scope_prefix;
    if (found.key !== undefined) delete found.key_prefix;
    return found;
  }

  apply() {
    this.given.clear();
    go("live", { ...this.filter, kind: this.kind.value || undefined }, { instead: true });
  }

  reconnected() {
    this.rows.unshift({ gap: "the connection was lost: what happened meanwhile is not known", at: now() });
    this.list.show(this.rows, this.rows.length, this.list.chosen);
    this.listen(true);
  }

  listen(anew = false) {
    if (anew || document.hidden) {
      if (this.end && document.hidden) this.wasHidden = true;
      this.end?.();
      this.end = null;
    }
    if (document.hidden || this.end || this.isOver || engine.state !== "open") return;
    const narrows = engine.has("triggers.v2");
    const filter = this.filter;
    if (!narrows && (filter.scope_prefix !== undefined || filter.key_prefix !== undefined || this.kind.value)) {
      replace(this.place, trouble({ code: "UNSUPPORTED", message: "this engine cannot filter by beginnings or kinds (feature triggers.v2)" }));
      return;
    }
    replace(this.place);
    this.dropped = 0;
    // In a Redis a queue that is full slows every writer: there the page takes all there is at once, and leaves out itself.
    this.takesAll = engine.about?.adapter !== "kv";
    this.share = 0;
    const times = this.takesAll ? 50 : 1;
    const config = { ...filter, retention_ms: 0, on_full: "drop_oldest", max_queue_length: QUEUE * times, concurrency: 1 };
    if (this.kind.value) config.event_types = [`state:${this.kind.value}`];
    if (narrows) config.batch = this.takesAll ? { max: 1000, wait_ms: 0 } : { max: BATCH, wait_ms: FRAME_MS };
    if (this.wasHidden) {
      this.rows.unshift({ gap: "the page was hidden, and did not listen", at: now() });
      this.list.show(this.rows, this.rows.length, this.list.chosen);
    }
    this.wasHidden = false;
    this.end = engine.listen(
      config,
      (text, span, metadata) => this.take(text, span, metadata),
      (error) => replace(this.place, trouble(error, () => this.listen(true))),
    );
    this.status();
  }

  /** Takes what the engine has sent; the answer waits as long as the browser's share of it takes, and the queue drops meanwhile. */
  async take(text, span, metadata) {
    const began = performance.now();
    const data = text.slice(...span);
    const fields = members(data);
    const events = [];
    if (fields.has("events")) {
      for (const part of parts(data, fields.get("events")[0])) {
        const row = members(data, part.start);
        events.push([data.slice(...row.get("event")), row.has("dropped") ? Number(data.slice(...row.get("dropped"))) : 0]);
      }
    } else events.push([data, metadata?.iii_state?.dropped ?? 0]);
    const at = now();
    this.share = Math.min(SHOWN_A_SECOND, this.share + ((began - (this.began ?? 0)) / 1000) * SHOWN_A_SECOND);
    this.began = began;
    let over = 0;
    for (const [event, dropped] of events) {
      if (dropped > this.dropped) {
        this.gap(dropped - this.dropped, at);
        this.dropped = dropped;
      }
      if (this.takesAll && this.share < 1) {
        over++;
        continue;
      }
      this.share--;
      this.seen++;
      this.add({ event, at, size: event.length });
    }
    if (over) this.gap(over, at);
    if (!this.drawing) this.drawing = setTimeout(() => this.redraw(), FRAME_MS);
    if (this.takesAll && events.length > SHOWN_A_SECOND) return;
    const share = this.takesAll ? FRAME_MS : Math.max(FRAME_MS, (text.length / CHARACTERS_A_SECOND) * 1000);
    await new Promise((go_) => setTimeout(go_, share - (performance.now() - began)));
  }

  gap(count, at) {
    this.lost += count;
    this.add({ gap: `${plural(count, "change")} left out: there were more than are shown`, at });
  }

  add(row) {
    if (this.isPaused) {
      this.waiting.push(row);
      while (this.waiting.length > MOST_ROWS) this.cut += this.waiting.shift().gap ? 0 : 1;
    } else {
      this.rows.unshift(row);
      this.size += row.size ?? 0;
      this.isNew = true;
    }
  }

  trim() {
    while (this.rows.length > MOST_ROWS || this.size > MOST_CHARACTERS) this.size -= this.rows.pop().size ?? 0;
  }

  redraw() {
    this.drawing = null;
    if (this.isOver) return;
    this.trim();
    if (this.isNew) this.list.show(this.rows, this.rows.length, this.list.chosen);
    this.isNew = false;
    this.status();
  }

  status() {
    const lost = this.lost ? `, ${number(this.lost)} left out` : "";
    this.state.textContent = this.end
      ? `${plural(this.seen, "change")} seen${lost}; ${number(this.rows.length)} kept (at most ${number(MOST_ROWS)}). Times are when they came here.`
      : "Not listening.";
    this.pauseButton.textContent = this.isPaused ? "Go on" : "Pause";
    this.pauseButton.setAttribute("aria-pressed", String(this.isPaused));
    const fresh = this.waiting.filter((row) => !row.gap).length + this.cut;
    replace(
      this.bar,
      this.isPaused
        ? h("div", { class: "paused" }, h("strong", null, "‖ Paused"), `${number(fresh)} new`, button("Go on", () => this.pause(false)))
        : null,
    );
  }

  pause(isPaused) {
    if (this.isPaused === isPaused) return;
    this.isPaused = isPaused;
    if (!isPaused) {
      if (this.cut) this.waiting.unshift({ gap: `${plural(this.cut, "change")} left out: more came while it was paused than are kept`, at: now() });
      this.lost += this.cut;
      this.seen -= this.cut;
      this.cut = 0;
      for (const row of this.waiting) {
        this.rows.unshift(row);
        this.size += row.size ?? 0;
      }
      this.waiting = [];
      this.isNew = true;
      this.list.element.scrollTop = 0;
      this.redraw();
    } else this.status();
  }

  clear() {
    this.rows = [];
    this.waiting = [];
    this.size = this.seen = this.lost = this.cut = 0;
    this.list.chosen = null;
    this.list.show(this.rows);
    replace(this.detail, empty("Choose a change to see what it changed."));
    this.status();
  }

  read(row) {
    if (!row.fields) {
      const found = members(row.event);
      const get = (key) => (found.has(key) ? row.event.slice(...found.get(key)) : "null");
      row.fields = {
        kind: JSON.parse(get("event_type")).replace("state:", ""),
        scope: JSON.parse(get("scope")),
        key: JSON.parse(get("key")),
        cause: JSON.parse(get("cause")),
        before: unframed(get("old_value")),
        after: unframed(get("new_value")),
      };
      row.fields.own = !row.fields.cause && isOwn(row.fields.scope, row.fields.key);
    }
    return row.fields;
  }

  draw(row) {
    if (row.gap) return [h("span", null, timeOfDay(row.at)), h("span", { class: "grows gap" }, `⋯ ${row.gap}`)];
    const { kind, scope, key, cause, own, before, after } = this.read(row);
    return [
      h("span", { class: "muted" }, timeOfDay(row.at)),
      h("span", { class: "kind" }, kind),
      h("span", { class: "grows" }, name(scope, 80), " / ", name(key, 80), " ", h("span", { class: "muted" }, visible(kind === "deleted" ? before : after, 80))),
      cause ? h("span", { class: "badge" }, cause) : null,
      own ? h("span", { class: "badge" }, "by this page") : null,
    ].filter(Boolean);
  }

  show(row) {
    this.list.chosen = row;
    if (!this.isPaused) this.pause(true);
    this.list.draw(true);
    if (row.gap) {
      replace(this.detail, h("p", null, row.gap));
      return;
    }
    const { kind, scope, key, cause, own, before, after } = this.read(row);
    replace(
      this.detail,
      h("h2", null, name(key)),
      h("p", null, "Scope ", name(scope), `, ${kind} at ${timeOfDay(row.at)}`, cause ? `, because it ${cause === "expired" ? "expired" : "was written by another program"}` : "", own ? ", by this page" : ""),
      h("div", { class: "bar" }, button("Open the value", () => go("data", { scope, key })), button("Only this key", () => go("live", { scope, key }))),
      diffTable(kind === "created" ? null : before, kind === "deleted" ? null : after),
    );
  }

  key(event) {
    if (event.key !== " " || event.target.closest("button, a, summary")) return false;
    this.pause(!this.isPaused);
    return true;
  }

  close() {
    this.isOver = true;
    this.end?.();
    this.end = null;
    clearInterval(this.counts);
    document.removeEventListener("visibilitychange", this.visible);
  }
}

function field(id, label) {
  return [label, h("input", { type: "search", id, autocomplete: "off", spellcheck: "false" })];
}
