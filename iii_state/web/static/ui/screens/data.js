// The screen of scopes, keys and values.

import { button, debounce, empty, h, name, number, plain, plural, replace, say, trouble, waiting } from "../parts/dom.js";
import { engine } from "../parts/engine.js";
import { List } from "../parts/list.js";
import { go, keepDraft } from "../main.js";
import { createValue } from "./edit.js";
import { ValuePane } from "./value.js";

const PAGE = 500;
let scrolled = 0;

export function open(root, given) {
  return new Data(root, given);
}

class Data {
  constructor(root, given) {
    this.scope = null;
    this.prefix = "";
    this.turn = 0;
    this.isNew = true;
    this.scopes = [];
    this.keys = [];
    this.scopeFilter = h("input", {
      type: "search",
      id: "scope-filter",
      placeholder: "Filter scopes",
      autocomplete: "off",
      spellcheck: "false",
      "data-search": true,
      oninput: () => this.filterScopes(),
      onkeydown: (event) => this.intoList(event, this.scopeList),
    });
    this.scopeCount = h("p", { class: "count", role: "status" });
    this.scopeList = new List({
      label: "Scopes",
      row: (scope) => name(scope, 200),
      choose: (scope, byKey) => {
        this.wantsFocus = byKey;
        go("data", { scope });
      },
    });
    this.scopePlace = h("div", { class: "place" }, this.scopeList.element);

    this.prefixField = h("input", {
      type: "search",
      id: "key-prefix",
      placeholder: "Keys that begin with …",
      autocomplete: "off",
      spellcheck: "false",
      oninput: debounce(200, () => this.search()),
      onkeydown: (event) => this.intoList(event, this.keyList),
    });
    this.keyFilter = h("input", {
      type: "search",
      id: "key-filter",
      placeholder: "Filter what is loaded",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.filterKeys(),
      onkeydown: (event) => this.intoList(event, this.keyList),
    });
    this.order = button("A–Z", () => this.turnOrder(), { "aria-label": "Order: ascending. Turn it.", class: "quiet" });
    this.isDescending = false;
    this.keyCount = h("p", { class: "count", role: "status" });
    this.keyList = new List({
      label: "Keys",
      row: (key) => name(key, 200),
      choose: (key) => this.goTo(key),
      preview: debounce(80, (key) => this.goTo(key, true)),
      more: () => this.loadMore(),
    });
    this.keyPlace = h("div", { class: "place" }, this.keyList.element);
    this.keyTitle = h("h2");
    this.value = new ValuePane(() => this.reload());
    this.create = button("Create …", () => this.make(), { class: "primary" });
    this.root = h(
      "div",
      { class: "data" },
      h("h1", { class: "unseen" }, "Data"),
      h(
        "section",
        { class: "pane scopes", "aria-label": "Scopes" },
        h("div", { class: "head" }, h("h2", null, "Scopes"), button("Reload", () => this.loadScopes(), { class: "quiet" }), this.create),
        h("label", { for: "scope-filter", class: "unseen" }, "Filter scopes"),
        this.scopeFilter,
        this.scopeCount,
        this.scopePlace,
      ),
      h(
        "section",
        { class: "pane keys", "aria-label": "Keys" },
        h("div", { class: "head" }, button("‹ Scopes", () => go("data", {}), { class: "back quiet" }), this.keyTitle, this.order, button("Reload", () => this.loadKeys(), { class: "quiet" })),
        h("label", { for: "key-prefix", class: "field" }, h("span", null, "Search"), this.prefixField),
        h("label", { for: "key-filter", class: "field soft" }, h("span", null, "Filter"), this.keyFilter),
        this.keyCount,
        this.keyPlace,
      ),
      h("section", { class: "pane value", "aria-label": "Value" }, this.value.element),
    );
    replace(root, this.root);
    if (!engine.can("state::list_groups")) {
      replace(this.scopePlace, empty("This token may not list scopes (state::list_groups)."));
    } else this.loadScopes();
    this.update(given);
  }

  intoList(event, list) {
    if (event.key === "Enter" && list.items.length) {
      list.move(Math.max(0, list.at));
      list.open(true);
    } else if (event.key === "ArrowDown") {
      list.element.focus();
      list.move(Math.max(0, list.at));
    } else return;
    event.preventDefault();
  }

  goTo(key, instead = false) {
    go("data", { scope: this.scope, key, prefix: this.prefix || undefined }, { instead });
  }

  update(given) {
    const scope = given.get("scope") ?? null;
    const key = given.get("key") ?? null;
    const prefix = given.get("prefix") ?? "";
    this.root.dataset.level = scope === null ? "scopes" : key === null ? "keys" : "value";
    if (scope !== this.scope || prefix !== this.prefix || this.isNew) {
      this.isNew = false;
      if (scope !== this.scope) {
        this.keyFilter.value = "";
      }
      this.scope = scope;
      this.prefix = prefix;
      if (this.prefixField.value !== prefix) this.prefixField.value = prefix;
      this.scopeList.pick(scope);
      this.loadKeys();
    }
    this.keyList.pick(key);
    if (scope === null || key === null) this.value.clear();
    else this.value.show(scope, key);
  }

  reconnected() {
    if (engine.can("state::list_groups")) this.loadScopes();
    this.loadKeys();
    this.value.reload();
  }

  reload() {
    this.loadScopes();
    this.loadKeys();
  }

  // --- scopes

  async loadScopes() {
    const done = this.scopes.length ? () => {} : waiting(this.scopePlace);
    try {
      this.scopes = (await engine.ask("state::list_groups")).groups;
      done();
      replace(this.scopePlace, this.scopeList.element);
      this.filterScopes();
      this.scopeList.element.scrollTop = scrolled;
    } catch (error) {
      done();
      replace(this.scopePlace, trouble(error, () => this.loadScopes()));
    }
  }

  filterScopes() {
    const wanted = this.scopeFilter.value;
    const lower = wanted.toLowerCase();
    const found = wanted === "" ? this.scopes : this.scopes.filter((scope) => scope.toLowerCase().includes(lower));
    this.scopeList.show(found, found.length, this.scope);
    this.scopeCount.textContent =
      wanted === "" ? `${plural(this.scopes.length, "scope")}, all` : `${number(found.length)} of ${plural(this.scopes.length, "scope")}`;
    if (!this.scopes.length)
      replace(this.scopePlace, empty(h("p", null, engine.about?.rights?.scopes ? "There are no scopes that this token may see." : "There are no scopes yet."), h("p", null, "Create a value here, or from a shell: "), h("code", null, "iii-state set SCOPE KEY '{}'")));
    else if (this.scopeList.element.parentNode !== this.scopePlace) replace(this.scopePlace, this.scopeList.element);
    if (this.scope !== null) document.title = `${plain(this.scope, 40)} – iii-state`;
  }

  // --- keys

  search() {
    if (this.scope !== null) go("data", { scope: this.scope, prefix: this.prefixField.value || undefined }, { instead: true });
  }

  turnOrder() {
    this.isDescending = !this.isDescending;
    this.order.textContent = this.isDescending ? "Z–A" : "A–Z";
    this.order.setAttribute("aria-label", `Order: ${this.isDescending ? "descending" : "ascending"}. Turn it.`);
    this.loadKeys();
  }

  async loadKeys() {
    const mine = ++this.turn;
    this.keys = [];
    this.next = null;
    this.isLoading = false;
    replace(this.keyTitle, this.scope === null ? "Keys" : name(this.scope, 100));
    if (this.scope === null) {
      this.keyCount.textContent = "";
      replace(this.keyPlace, empty("Choose a scope."));
      return;
    }
    await this.load(mine, undefined);
  }

  async loadMore() {
    if (this.next === null || this.isLoading || engine.state !== "open") return;
    await this.load(this.turn, this.next);
  }

  async load(mine, after) {
    this.isLoading = true;
    const pages = engine.has("prefix");
    const request = pages
      ? { scope: this.scope, prefix: this.prefix, order: this.isDescending ? "desc" : "asc", limit: PAGE, after }
      : { scope: this.scope };
    const done = after === undefined ? waiting(this.keyPlace) : () => {};
    try {
      const found = await engine.ask("state::list_keys", request);
      if (mine !== this.turn) return;
      done();
      this.keys = after === undefined ? found.keys : [...this.keys, ...found.keys];
      if (!pages) {
        this.keys.sort();
        if (this.isDescending) this.keys.reverse();
      }
      this.next = found.next ?? null;
      this.isLoading = false;
      if (this.keyList.element.parentNode !== this.keyPlace) replace(this.keyPlace, this.keyList.element);
      this.filterKeys();
      if (after !== undefined) return;
      this.keyList.element.scrollTop = 0;
      if (this.wantsFocus) this.keyList.element.focus();
      this.wantsFocus = false;
    } catch (error) {
      if (mine !== this.turn) return;
      done();
      this.isLoading = false;
      this.next = null;
      replace(this.keyPlace, trouble(error, () => this.loadKeys()));
    }
  }

  filterKeys() {
    const wanted = this.keyFilter.value.toLowerCase();
    const found = wanted === "" ? this.keys : this.keys.filter((key) => key.toLowerCase().includes(wanted));
    const isWhole = this.next === null;
    this.keyList.show(found, isWhole ? found.length : null, this.value.key);
    const loaded = isWhole ? `${plural(this.keys.length, "key")}, all` : `${number(this.keys.length)} loaded, more follow`;
    this.keyCount.textContent = wanted === "" ? loaded : `${number(found.length)} of ${loaded}`;
    if (!this.keys.length)
      replace(this.keyPlace, empty(this.prefix === "" ? "This scope has no keys (any more)." : "No key begins with that."));
    else if (!found.length) replace(this.keyPlace, empty(isWhole ? "No key holds that." : "None of those that are loaded holds that: search by what keys begin with."));
    else if (this.keyList.element.parentNode !== this.keyPlace) replace(this.keyPlace, this.keyList.element);
  }

  // --- changes

  async make() {
    if (engine.readOnly) return say(engine.readOnly);
    const made = await createValue(this.scope ?? "", engine.readOnly);
    if (!made) return;
    go("data", { scope: made.scope, key: made.key });
    this.reload();
  }

  key(event) {
    if (event.key === "c" && !engine.readOnly) this.make();
    else if (event.key === "e") this.value.edit();
    else if (event.key === "Escape" && this.root.dataset.level === "value") {
      go("data", { scope: this.scope, prefix: this.prefix || undefined });
      this.keyList.element.focus();
    } else if (event.key === "Escape" && this.root.dataset.level === "keys") {
      go("data", {});
      this.scopeList.element.focus();
    } else return false;
    return true;
  }

  close() {
    scrolled = this.scopeList.element.scrollTop;
    keepDraft(null);
    this.turn++;
    this.value.clear();
  }
}
