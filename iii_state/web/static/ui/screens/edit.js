// Changing a value: what was typed is shown as a difference first, and saved only if nobody changed it meanwhile.

import { button, h, name, now, replace, toast, trouble } from "../parts/dom.js";
import { dialog, form } from "../parts/dialog.js";
import { diffTable } from "../parts/diff.js";
import { CallError, engine } from "../parts/engine.js";
import { Raw, compact, fault, format } from "../parts/json.js";
import { read } from "./value.js";

const own = [];

/** Keeps in mind that this page is about to change a key, so that Live can say so. */
export function noteOwn(scope, key) {
  own.push({ scope, key, at: now() });
  if (own.length > 200) own.shift();
}

export function isOwn(scope, key) {
  const since = now() - 10_000;
  return own.some((each) => each.scope === scope && each.key === key && each.at > since);
}

function ifUnchanged(found) {
  return [{ etag: found.etag }, ...(found.revision === null ? [] : [{ revision: found.revision }])];
}

export class Editor {
  /** `over(isSaved)` is called when editing ends. `base` is what was read. */
  constructor(scope, key, base, over) {
    this.scope = scope;
    this.key = key;
    this.base = base;
    this.over = over;
    this.given = format(base.text);
    this.area = h("textarea", { class: "mono", spellcheck: "false", autocomplete: "off", "aria-label": "Value as JSON", id: "draft" });
    this.area.value = this.given;
    this.place = h("div", { "aria-live": "polite" });
    this.conflict = h("div");
    this.save = button("Save …", () => this.review(), { class: "primary" });
    this.element = h(
      "div",
      { class: "editor" },
      this.conflict,
      this.area,
      this.place,
      h("div", { class: "bar" }, this.save, button("Cancel", () => this.leave())),
    );
    this.area.addEventListener("input", () => replace(this.place));
    this.area.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "Enter") this.review();
    });
  }

  get isChanged() {
    return this.area.value !== this.given;
  }

  focus() {
    this.area.focus();
    this.area.setSelectionRange(0, 0);
  }

  leave() {
    if (this.isChanged && !window.confirm("Leave, and lose what was typed?")) return;
    this.over(false);
  }

  async review() {
    const draft = this.area.value;
    const wrong = fault(draft);
    if (wrong !== null) {
      replace(this.place, trouble(new CallError("no JSON", wrong)));
      return;
    }
    if (compact(draft) === compact(this.base.text)) {
      replace(this.place, h("p", { class: "muted" }, "Nothing differs from what is stored."));
      return;
    }
    const agreed = await dialog("Save these changes?", (close) => [
      h("p", null, "Key ", name(this.key), " of scope ", name(this.scope)),
      diffTable(this.base.text, draft, ["Stored", "Yours"]),
      h("div", { class: "actions" }, button("Back", () => close(false), { autofocus: true }), button("Save", () => close(true), { class: "primary" })),
    ], { class: "wide" });
    if (agreed) await this.send(draft);
  }

  async send(draft) {
    this.save.disabled = true;
    try {
      noteOwn(this.scope, this.key);
      await engine.call(
        "state::update",
        {
          scope: this.scope,
          key: this.key,
          ops: [{ type: "set", value: new Raw(draft) }],
          strict: true,
          if: ifUnchanged(this.base),
          return: "none",
          meta: true,
        },
        { changes: true },
      );
      toast("Saved");
      this.over(true);
      return;
    } catch (error) {
      if (error.code === "CONDITION_FAILED") await this.clash(draft);
      else if (error.code === "OUTCOME_UNKNOWN") await this.look(draft, error);
      else replace(this.place, trouble(error, () => this.review()));
    }
    this.save.disabled = false;
  }

  /** Somebody was first: the draft stays, and what it was, what is typed and what is there now stand beside each other. */
  async clash(draft) {
    let theirs;
    try {
      theirs = await read(this.scope, this.key);
    } catch (error) {
      replace(this.place, trouble(error, () => this.clash(draft)));
      return;
    }
    const take = () => {
      this.base = theirs;
      this.given = format(theirs.text);
      replace(this.conflict, h("p", { class: "muted" }, "Your draft goes on from what is stored now; Save shows the difference."));
    };
    const useTheirs = () => {
      take();
      this.area.value = this.given;
    };
    replace(
      this.conflict,
      h(
        "div",
        { class: "trouble conflict", role: "alert" },
        h("strong", null, theirs.text === null ? "It was deleted meanwhile. Nothing was saved." : "It was changed meanwhile. Nothing was saved."),
        h("details", { open: true }, h("summary", null, "Theirs: since you began"), diffTable(this.base.text, theirs.text, ["Base", "Theirs"])),
        h("details", { open: true }, h("summary", null, "Yours: since you began"), diffTable(this.base.text, draft, ["Base", "Mine"])),
        theirs.text === null
          ? h("p", null, "To have it again, copy your draft and create it anew.")
          : h("div", { class: "bar" }, button("Go on from theirs, with my draft", take), button("Take theirs, drop my draft", useTheirs)),
      ),
    );
  }

  async look(draft, error) {
    try {
      const found = await read(this.scope, this.key);
      if (found.text !== null && compact(found.text) === compact(draft)) {
        toast("Saved: it was found when looked at again");
        this.over(true);
        return;
      }
      replace(this.place, trouble(new CallError("OUTCOME_UNKNOWN", `${error.message}; read again, the value is not your draft`), () => this.review()));
    } catch {
      replace(this.place, trouble(error, () => this.look(draft, error)));
    }
  }
}

/** Asks for a scope, a key and a value, and creates it where there is none; resolves with where it is, or null. */
export function createValue(scope) {
  const fields = {
    scope: h("input", { id: "new-scope", autocomplete: "off", spellcheck: "false" }),
    key: h("input", { id: "new-key", autocomplete: "off", spellcheck: "false", autofocus: true }),
    value: h("textarea", { id: "new-value", class: "mono", rows: "8", spellcheck: "false" }),
    ttl: h("input", { id: "new-ttl", inputmode: "numeric", autocomplete: "off" }),
  };
  fields.scope.value = scope;
  fields.value.value = "{}";
  const labelled = (id, words, field) => h("p", null, h("label", { for: id }, words), field);
  const submit = async () => {
    const wrong = fault(fields.value.value);
    if (wrong !== null) throw new CallError("no JSON", wrong);
    const ttl = fields.ttl.value.trim();
    if (ttl !== "" && !/^[1-9]\d{0,12}$/.test(ttl)) throw new CallError("no number", "the time to live is a whole number of milliseconds, 1 at least, or empty");
    const made = { scope: fields.scope.value, key: fields.key.value };
    noteOwn(made.scope, made.key);
    try {
      await engine.call(
        "state::set",
        { ...made, value: new Raw(fields.value.value), ttl_ms: ttl === "" ? undefined : Number(ttl), if: [{ absent: true }], return: "none", meta: true },
        { changes: true },
      );
    } catch (error) {
      if (error.code === "CONDITION_FAILED") throw new CallError(error.code, "there is a value at this key already; nothing was changed");
      throw error;
    }
    return made;
  };
  return form(
    "Create a value",
    [
      labelled("new-scope", "Scope", fields.scope),
      labelled("new-key", "Key", fields.key),
      labelled("new-value", "Value, as JSON", fields.value),
      labelled("new-ttl", "Goes after, in milliseconds (empty: stays)", fields.ttl),
    ],
    "Create",
    submit,
    () => fields.value.value !== "{}" || fields.key.value !== "",
  );
}
