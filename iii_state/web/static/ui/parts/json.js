// JSON as it is spelled: finds the parts of a text without making numbers or objects of them, so that nothing is rounded or
// reordered. Everything is done with loops, however deep a text nests.

const QUOTE = 34;
const BACKSLASH = 92;
const COMMA = 44;

function isSpace(code) {
  return code === 32 || code === 10 || code === 13 || code === 9;
}

export function skip(text, at) {
  while (isSpace(text.charCodeAt(at))) at++;
  return at;
}

function endOfString(text, at) {
  for (let from = at + 1; ; ) {
    const quote = text.indexOf('"', from);
    if (quote < 0) throw new SyntaxError("a string does not end");
    let before = quote - 1;
    while (text.charCodeAt(before) === BACKSLASH) before--;
    if ((quote - before) % 2 === 1) return quote + 1;
    from = quote + 1;
  }
}

/** Where the value ends that begins at `at`. */
export function end(text, at) {
  const first = text.charCodeAt(at);
  if (first === QUOTE) return endOfString(text, at);
  if (first !== 123 && first !== 91) {
    while (at < text.length) {
      const code = text.charCodeAt(at);
      if (code === COMMA || code === 125 || code === 93 || isSpace(code)) break;
      at++;
    }
    return at;
  }
  let depth = 0;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = endOfString(text, at);
      continue;
    }
    at++;
    if (code === 123 || code === 91) depth++;
    else if ((code === 125 || code === 93) && --depth === 0) return at;
  }
  throw new SyntaxError("a value does not end");
}

const KINDS = { '"': "string", "{": "object", "[": "array", t: "boolean", f: "boolean", n: "null" };

export function kind(text, at) {
  return KINDS[text[at]] ?? "number";
}

/** The parts of an object or array that begins at `at`, one after the other: `{name, start, end}`; `name` is null in arrays. */
export function* parts(text, at) {
  const isObject = text[at] === "{";
  let here = skip(text, at + 1);
  while (here < text.length && text[here] !== "}" && text[here] !== "]") {
    let name = null;
    if (isObject) {
      const close = endOfString(text, here);
      name = JSON.parse(text.slice(here, close));
      here = skip(text, skip(text, close) + 1);
    }
    const close = end(text, here);
    yield { name, start: here, end: close };
    here = skip(text, close);
    if (text.charCodeAt(here) === COMMA) here = skip(text, here + 1);
  }
}

export function count(text, at) {
  let found = 0;
  let depth = 0;
  let some = false;
  for (let here = at; here < text.length; ) {
    const code = text.charCodeAt(here);
    if (code === QUOTE) {
      some = true;
      here = endOfString(text, here);
      continue;
    }
    here++;
    if (code === 123 || code === 91) {
      if (depth++ > 0) some = true;
    } else if (code === 125 || code === 93) {
      if (--depth === 0) break;
    } else if (code === COMMA) {
      if (depth === 1) found++;
    } else if (!isSpace(code)) some = true;
  }
  return some ? found + 1 : 0;
}

/** The members of an object as `{name: [start, end]}`; of one name the last. */
export function members(text, at = 0) {
  const found = new Map();
  for (const part of parts(text, skip(text, at))) found.set(part.name, [part.start, part.end]);
  return found;
}

function walk(text, from, to, token) {
  for (let here = from; here < to; ) {
    const code = text.charCodeAt(here);
    if (isSpace(code)) here++;
    else if (code === QUOTE) {
      const close = endOfString(text, here);
      token(text.slice(here, close), code);
      here = close;
    } else if (code === 123 || code === 91 || code === 125 || code === 93 || code === COMMA || code === 58) {
      token(text[here], code);
      here++;
    } else {
      const close = end(text, here);
      token(text.slice(here, close), 0);
      here = close;
    }
  }
}

export function compact(text, from = 0, to = text.length) {
  const found = [];
  walk(text, from, to, (token) => found.push(token));
  return found.join("");
}

/** The same over lines, each level two spaces further in, at most 64 of them; every token as it is spelled. */
export function format(text, from = 0, to = text.length) {
  const found = [];
  let depth = 0;
  let opened = false;
  const line = () => found.push("\n", "  ".repeat(Math.min(depth, 64)));
  walk(text, from, to, (token, code) => {
    if (code === 125 || code === 93) {
      depth--;
      if (!opened) line();
      opened = false;
      found.push(token);
      return;
    }
    if (opened) line();
    opened = false;
    found.push(token);
    if (code === 123 || code === 91) {
      depth++;
      opened = true;
    } else if (code === COMMA) line();
    else if (code === 58) found.push(" ");
  });
  return found.join("");
}

/** A stored text without the frame in which objects are kept: TABs and line ends occur nowhere else in it. */
export function unframed(text) {
  return text.startsWith("{\t\n") ? text.replace(/[\t\n]/g, "") : text;
}

/** A part of a request that is JSON text already. */
export class Raw {
  constructor(text) {
    this.text = text;
  }
}

/** The JSON text of a request; `Raw` parts go in as they are, undefined members are left out. */
export function request(value) {
  if (value instanceof Raw) return value.text;
  if (Array.isArray(value)) return `[${value.map(request).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const given = Object.entries(value).filter(([, member]) => member !== undefined);
    return `{${given.map(([name, member]) => `${JSON.stringify(name)}:${request(member)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

/** What is wrong with a text that was typed, in words with the line; null where it is JSON. */
export function fault(text) {
  if (text.trim() === "") return "it is empty: a value is needed, null for instance";
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    const at = /position (\d+)/.exec(error.message);
    if (!at) return error.message;
    const before = text.slice(0, Number(at[1]));
    return `line ${before.split("\n").length}, column ${Number(at[1]) - before.lastIndexOf("\n")}: ${error.message}`;
  }
}
