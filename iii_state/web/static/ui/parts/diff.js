// What differs between two JSON texts, by path; compared as they are spelled, members in any order.

import { h, number, plural, visible } from "./dom.js";
import { compact, kind, parts, skip } from "./json.js";

const MOST = 2000;
const LARGE = 256 * 1024;
const SHOWN = 200;

/** `{changes: [{path, old, new}], isWhole}`; a text that is null stands for nothing. */
export function changes(before, after) {
  if (before === null || after === null) return { changes: before === after ? [] : [{ path: [], old: before, new: after }], isWhole: true };
  if (before.length + after.length > LARGE) return { changes: [], isWhole: false };
  const found = [];
  const stack = [[[], skip(before, 0), before.length, skip(after, 0), after.length]];
  while (stack.length) {
    const [path, a, aEnd, b, bEnd] = stack.pop();
    const [x, y] = [before.slice(a, aEnd).trim(), after.slice(b, bEnd).trim()];
    if (x === y) continue;
    const kinds = [kind(before, a), kind(after, b)];
    if (kinds[0] !== kinds[1] || (kinds[0] !== "object" && kinds[0] !== "array")) {
      if (compact(x) !== compact(y)) found.push({ path, old: x, new: y });
    } else {
      const left = new Map();
      const right = new Map();
      let index = 0;
      for (const part of parts(before, a)) left.set(part.name ?? index++, part);
      index = 0;
      for (const part of parts(after, b)) right.set(part.name ?? index++, part);
      const below = [];
      for (const [name, part] of left) {
        const other = right.get(name);
        if (other) below.push([[...path, name], part.start, part.end, other.start, other.end]);
        else found.push({ path: [...path, name], old: before.slice(part.start, part.end), new: null });
      }
      for (const [name, part] of right)
        if (!left.has(name)) found.push({ path: [...path, name], old: null, new: after.slice(part.start, part.end) });
      stack.push(...below.reverse());
    }
    if (found.length > MOST) return { changes: found, isWhole: false };
  }
  return { changes: found, isWhole: true };
}

function shownPath(path) {
  return path.length ? visible(JSON.stringify(path), 200) : "the whole value";
}

export function diffTable(before, after, words = ["Before", "After"]) {
  const found = changes(before, after);
  if (!found.isWhole && !found.changes.length)
    return h("p", null, `Too large to compare here: ${number(before.length)} characters before, ${number(after.length)} after.`);
  if (!found.changes.length) return h("p", { class: "muted" }, "Nothing differs.");
  const rows = found.changes.slice(0, SHOWN).map((change) => {
    const sign = change.old === null ? "+" : change.new === null ? "−" : "~";
    const about = { "+": "added", "−": "removed", "~": "changed" }[sign];
    return h(
      "tr",
      null,
      h("td", { class: "sign" }, h("span", { title: about, "aria-label": about, role: "img" }, sign)),
      h("th", { scope: "row" }, h("bdi", { class: "mono" }, shownPath(change.path))),
      h("td", { class: change.old === null ? "" : "removed", "data-label": words[0] }, change.old === null ? "" : visible(change.old, 300)),
      h("td", { class: change.new === null ? "" : "added", "data-label": words[1] }, change.new === null ? "" : visible(change.new, 300)),
    );
  });
  const left = found.changes.length - rows.length;
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "diff" },
      h("thead", null, h("tr", null, h("th", null, h("span", { class: "unseen" }, "Kind")), h("th", null, "Path"), h("th", null, words[0]), h("th", null, words[1]))),
      h("tbody", null, rows),
    ),
    left > 0 || !found.isWhole ? h("p", { class: "muted" }, `${plural(left, "further change")}${found.isWhole ? "" : " at least"} not shown.`) : null,
  );
}
