// A list of any length of which only the rows that can be seen are there: a listbox, by keyboard and by touch.

import { h } from "./dom.js";

const AROUND = 10;

export class List {
  /** `row(item)` gives what a row shows; `choose(item, byKey)` is told which one was opened; `more()` that the end comes near. */
  constructor({ label, row, choose, more = null, preview = null }) {
    this.items = [];
    this.made = new Map();
    this.total = null;
    this.at = -1;
    this.chosen = null;
    this.row = row;
    this.choose = choose;
    this.preview = preview;
    this.more = more;
    this.id = `list-${Math.random().toString(36).slice(2)}`;
    this.space = h("div", { class: "space" });
    this.element = h(
      "div",
      {
        class: "list",
        role: "listbox",
        tabindex: "0",
        "aria-label": label,
        onscroll: () => this.draw(),
        onkeydown: (event) => this.key(event),
        onpointerdown: (event) => (this.pressed = this.items[this.under(event)]),
        onclick: (event) => this.click(event),
        onfocus: () => {
          if (this.at < 0 && this.items.length) this.move(Math.ceil(this.element.scrollTop / this.height), false);
        },
      },
      this.space,
    );
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  get height() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 28;
  }

  /** Shows these items; `total` is how many there are, where that is more and known. Keeps its place. */
  show(items, total = items.length, chosen = this.chosen) {
    this.items = items;
    this.total = total;
    this.chosen = chosen;
    this.at = Math.min(this.at, items.length - 1);
    const found = chosen === null ? -1 : items.indexOf(chosen);
    if (found >= 0) this.at = found;
    this.draw(true);
  }

  pick(chosen) {
    this.chosen = chosen;
    const found = this.items.indexOf(chosen);
    if (found >= 0) this.at = found;
    this.draw(true);
  }

  draw(anew = false) {
    const height = this.height;
    const from = Math.max(0, Math.floor(this.element.scrollTop / height) - AROUND);
    const to = Math.min(this.items.length, Math.ceil((this.element.scrollTop + this.element.clientHeight) / height) + AROUND);
    this.space.style.height = `${this.items.length * height}px`;
    if (this.more && to >= this.items.length - 50 && this.items.length) this.more();
    if (!anew && this.drawn === `${from} ${to} ${this.at}`) return;
    this.drawn = `${from} ${to} ${this.at}`;
    // Elements stay while their items do: a click on one that was put away between its two halves would be none.
    const before = this.made;
    this.made = new Map();
    let place = this.space.firstChild;
    for (let index = from; index < to; index++) {
      const item = this.items[index];
      const element = before.get(item) ?? h("div", { role: "option" }, this.row(item));
      before.delete(item);
      this.made.set(item, element);
      element.className = `row${item === this.chosen ? " chosen" : ""}${index === this.at ? " at" : ""}`;
      element.id = `${this.id}-${index}`;
      element.dataset.index = index;
      element.setAttribute("aria-selected", String(item === this.chosen));
      element.setAttribute("aria-posinset", index + 1);
      element.setAttribute("aria-setsize", this.total ?? -1);
      element.style.transform = `translateY(${index * height}px)`;
      if (element === place) place = place.nextSibling;
      else this.space.insertBefore(element, place);
    }
    for (const element of before.values()) element.remove();
    if (this.at >= from && this.at < to) this.element.setAttribute("aria-activedescendant", `${this.id}-${this.at}`);
    else this.element.removeAttribute("aria-activedescendant");
  }

  move(at, previews = true) {
    if (!this.items.length) return;
    this.at = Math.max(0, Math.min(at, this.items.length - 1));
    const height = this.height;
    const top = this.at * height;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + height > this.element.scrollTop + this.element.clientHeight)
      this.element.scrollTop = top + height - this.element.clientHeight;
    this.draw();
    if (previews && this.preview) this.preview(this.items[this.at]);
  }

  under(event) {
    const row = event.target.closest("[data-index]");
    if (row) return Number(row.dataset.index);
    return Math.floor((event.clientY - this.space.getBoundingClientRect().top) / this.height);
  }

  click(event) {
    // Rows may have been drawn anew since the pointer went down: what lay under it then is meant.
    const pressed = event.detail ? this.items.indexOf(this.pressed) : -1;
    const at = pressed >= 0 ? pressed : this.under(event);
    if (!(at in this.items)) return;
    this.at = at;
    this.open(false);
  }

  open(byKey) {
    const item = this.items[this.at];
    if (item === undefined) return;
    this.chosen = item;
    this.draw(true);
    this.choose(item, byKey);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.height) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    if (event.key in moves) this.move(this.at + moves[event.key]);
    else if (event.key === "Home") this.move(0);
    else if (event.key === "End") this.move(this.items.length - 1);
    else if (event.key === "Enter") this.open(true);
    else return;
    event.preventDefault();
  }
}
