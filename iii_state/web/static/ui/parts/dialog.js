// Dialogs: what asks before anything is done that cannot be undone, and forms.

import { button, h, number, replace, trouble } from "./dom.js";

/** Shows a dialog with `content(close)`; resolves with what `close` was given. Focus returns to where it was. */
export function dialog(title, content, attributes) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    let result = null;
    const element = h("dialog", { "aria-labelledby": "dialog-title", ...attributes });
    const close = (given) => {
      result = given;
      element.close();
    };
    element.append(h("h2", { id: "dialog-title" }, title), ...[content(close)].flat());
    element.addEventListener("close", () => {
      element.remove();
      if (before?.isConnected) before.focus();
      resolve(result);
    });
    document.body.append(element);
    element.showModal();
    element.querySelector("[autofocus]")?.focus();
  });
}

/** Asks whether to go on; `act` says what the button does. Over 100 things the number has to be typed. */
export function confirm(title, words, act, { things = 1, danger = true } = {}) {
  return dialog(title, (close) => {
    const go = button(act, () => close(true), { class: danger ? "danger" : "primary" });
    let typed = null;
    if (things > 100) {
      const field = h("input", {
        inputmode: "numeric",
        autocomplete: "off",
        id: "typed-number",
        oninput: () => (go.disabled = field.value.replace(/\D/g, "") !== String(things)),
      });
      go.disabled = true;
      typed = h("p", null, h("label", { for: "typed-number" }, `Type ${number(things)} to go on: `), field);
    }
    return [
      h("div", { class: "words" }, words),
      typed,
      h("div", { class: "actions" }, button("Cancel", () => close(false), { autofocus: true }), go),
    ].filter(Boolean);
  });
}

/** Does `step(thing)` for each thing, ten at a time, showing how far it is; can be stopped. What fails is listed. */
export async function eachOf(title, things, step, done) {
  let finished = 0;
  let stopped = false;
  const failed = [];
  const bar = h("progress", { max: things.length, value: 0, "aria-label": title });
  const words = h("p", { role: "status" }, `0 of ${number(things.length)}`);
  const list = h("div", { class: "failures" });
  await dialog(title, (close) => {
    const stop = button("Stop", () => (stopped = true), { autofocus: true });
    const closing = button("Close", () => close(true), { disabled: true });
    const show = () => {
      bar.value = finished + failed.length;
      words.textContent = `${number(finished)} ${done}, ${number(failed.length)} failed, of ${number(things.length)}`;
    };
    const run = async () => {
      let at = 0;
      const work = async () => {
        while (!stopped && at < things.length) {
          const thing = things[at++];
          try {
            await step(thing);
            finished++;
          } catch (error) {
            failed.push([thing, error]);
            if (failed.length <= 100) list.append(h("div", null, `${thing.label ?? thing.id ?? ""} `, trouble(error)));
          }
          if ((finished + failed.length) % 10 === 0) show();
        }
      };
      await Promise.all(Array.from({ length: 10 }, work));
      show();
      if (stopped && at < things.length) words.textContent += `; stopped, ${number(things.length - at)} not touched`;
      stop.disabled = true;
      closing.disabled = false;
      closing.focus();
    };
    run();
    return [bar, words, list, h("div", { class: "actions" }, stop, closing)];
  });
  return { finished, failed };
}

/** A form in a dialog: `fields` are elements; `submit()` does it and raises what is wrong. Resolves with what `submit` gave. */
export function form(title, fields, act, submit, isChanged = () => false) {
  return dialog(title, (close) => {
    const place = h("div");
    const go = h("button", { type: "submit", class: "primary" }, act);
    const send = async (event) => {
      event.preventDefault();
      go.disabled = true;
      try {
        close(await submit());
      } catch (error) {
        replace(place, trouble(error));
      }
      go.disabled = false;
    };
    const leave = () => {
      if (!isChanged() || window.confirm("Leave without saving?")) close(null);
    };
    return [
      h("form", { onsubmit: send }, fields, place, h("div", { class: "actions" }, button("Cancel", leave), go)),
    ];
  });
}
