// A value as a tree: what is opened is looked at, and no more; every number as it is spelled.

import { button, copy, h, number, plural, replace, visible } from "./dom.js";
import { count, end, kind, parts, skip } from "./json.js";

const OPENED = 100;
const AT_ONCE = 100;
const STRING = 500;

class Node {
  constructor(text, start, stop, name, parent) {
    this.text = text;
    this.start = start;
    this.stop = stop;
    this.name = name;
    this.parent = parent;
    this.level = parent ? parent.level + 1 : 1;
    this.kind = kind(text, start);
    this.isOpen = false;
    this.children = [];
    this.rest = null;
    this.size = null;
  }

  get isContainer() {
    return this.kind === "object" || this.kind === "array";
  }

  get source() {
    return this.text.slice(this.start, this.stop);
  }

  get path() {
    const names = [];
    for (let node = this; node.parent; node = node.parent) names.unshift(node.name ?? node.index);
    return names;
  }

  open() {
    if (!this.isContainer) return;
    this.isOpen = true;
    if (this.rest === null) {
      this.rest = parts(this.text, this.start);
      this.more();
    }
  }

  more() {
    for (let taken = 0; taken < AT_ONCE; taken++) {
      const next = this.rest.next();
      if (next.done) {
        this.isWhole = true;
        return;
      }
      const child = new Node(this.text, next.value.start, next.value.end, next.value.name, this);
      child.index = this.children.length;
      this.children.push(child);
    }
    if (this.size === null) this.size = count(this.text, this.start);
    this.isWhole = this.children.length >= this.size;
  }

  get about() {
    if (this.size === null) this.size = this.isWhole ? this.children.length : count(this.text, this.start);
    return this.kind === "array" ? `[${plural(this.size, "item")}]` : `{${plural(this.size, "member")}}`;
  }
}

export class Tree {
  constructor(text, label = "Value") {
    this.root = new Node(text, skip(text, 0), text.length, null, null);
    this.root.stop = end(text, this.root.start);
    this.at = this.root;
    this.rows = h("div", {
      class: "tree",
      role: "tree",
      tabindex: "0",
      "aria-label": label,
      onkeydown: (event) => this.key(event),
      onclick: (event) => this.click(event),
    });
    this.path = h("span", { class: "path" });
    this.element = h(
      "div",
      { class: "tree-box" },
      h(
        "div",
        { class: "bar" },
        this.path,
        button("Copy value", () => copy(this.at.source)),
        button("Copy path", () => copy(JSON.stringify(this.at.path))),
      ),
      this.rows,
    );
    this.#openAtFirst();
    this.draw();
  }

  #openAtFirst() {
    const waiting = [this.root];
    let used = 1;
    while (waiting.length && used < OPENED) {
      const node = waiting.shift();
      node.open();
      used += node.children.length;
      waiting.push(...node.children.filter((child) => child.isContainer));
    }
  }

  /** What can be seen, from the top: nodes, and `{more}` where a level goes on. */
  #seen() {
    const found = [];
    const stack = [this.root];
    while (stack.length) {
      const node = stack.pop();
      found.push(node);
      if (node.more === undefined || !node.isOpen || !node.children) continue;
      if (!node.isWhole) stack.push({ of: node });
      for (let index = node.children.length - 1; index >= 0; index--) stack.push(node.children[index]);
    }
    return found;
  }

  draw() {
    this.seen = this.#seen();
    const rows = this.seen.map((node, index) => (node.of ? this.#moreRow(node, index) : this.#row(node, index)));
    replace(this.rows, rows);
    this.mark();
  }

  #row(node, index) {
    const label =
      node.parent === null
        ? null
        : node.name === null
          ? h("span", { class: "index" }, `${node.index}`)
          : h("bdi", { class: "member" }, node.name === "" ? '""' : visible(node.name));
    const row = h(
      "div",
      {
        class: `node ${node.kind}`,
        role: "treeitem",
        id: `node-${index}`,
        "aria-level": node.level,
        "aria-expanded": node.isContainer ? String(node.isOpen) : null,
        "aria-selected": "false",
        "data-index": index,
      },
      h("span", { class: "twist", "aria-hidden": "true" }, node.isContainer ? (node.isOpen ? "▾" : "▸") : ""),
      label,
      label ? ": " : null,
      node.isContainer ? h("span", { class: "muted" }, node.about) : scalar(node),
    );
    row.style.setProperty("--level", Math.min(node.level - 1, 40));
    return row;
  }

  #moreRow(row, index) {
    const left = row.of.size - row.of.children.length;
    const element = h(
      "div",
      { class: "node more", role: "treeitem", id: `node-${index}`, "aria-level": row.of.level + 1, "aria-selected": "false", "data-index": index },
      h("span", { class: "twist", "aria-hidden": "true" }, "…"),
      `${number(Math.min(AT_ONCE, left))} more of ${number(left)}`,
    );
    element.style.setProperty("--level", Math.min(row.of.level, 40));
    return element;
  }

  mark() {
    const index = this.seen.indexOf(this.at);
    for (const row of this.rows.querySelectorAll('[aria-selected="true"]')) row.setAttribute("aria-selected", "false");
    const row = this.rows.children[index];
    if (row) {
      row.setAttribute("aria-selected", "true");
      this.rows.setAttribute("aria-activedescendant", row.id);
    }
    replace(this.path, "Path ", h("bdi", { class: "mono" }, this.at.of ? "" : visible(JSON.stringify(this.at.path), 200)));
    return row;
  }

  toggle(node) {
    if (node.of) {
      const first = node.of.children.length;
      node.of.more();
      this.at = node.of.children[first] ?? node.of;
    } else if (node.isOpen) node.isOpen = false;
    else node.open();
    this.draw();
  }

  click(event) {
    const row = event.target.closest("[data-index]");
    if (!row || String(getSelection())) return;
    const node = this.seen[Number(row.dataset.index)];
    if (!node.of) this.at = node;
    if (node.of || node.isContainer) this.toggle(node);
    else this.mark();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const index = Math.max(0, this.seen.indexOf(this.at));
    const node = this.at;
    const to = (target) => {
      this.at = this.seen[Math.max(0, Math.min(target, this.seen.length - 1))];
      this.mark()?.scrollIntoView({ block: "nearest" });
    };
    if (event.key === "ArrowDown") to(index + 1);
    else if (event.key === "ArrowUp") to(index - 1);
    else if (event.key === "Home") to(0);
    else if (event.key === "End") to(this.seen.length - 1);
    else if (event.key === "Enter" || event.key === " ") {
      if (node.of || node.isContainer) this.toggle(node);
    } else if (event.key === "ArrowRight") {
      if (node.isContainer && !node.isOpen) this.toggle(node);
      else if (node.isOpen && node.children.length) to(index + 1);
    } else if (event.key === "ArrowLeft") {
      if (node.isOpen) this.toggle(node);
      else to(this.seen.indexOf(node.of ?? node.parent ?? node));
    } else if (event.key === "*") {
      for (const child of (node.parent ?? { children: [node] }).children) child.open();
      this.draw();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** A string, number, boolean or null, as it is spelled; a long string clipped. */
function scalar(node) {
  const length = node.stop - node.start;
  const source = node.text.slice(node.start, Math.min(node.stop, node.start + STRING));
  return h(
    "span",
    { class: "scalar" },
    visible(source, STRING),
    length > STRING ? h("span", { class: "muted" }, ` … ${number(length - 2)} characters`) : null,
  );
}
