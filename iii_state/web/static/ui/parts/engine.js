// The connection to the engine, as one of its workers: calls, functions that take events, and coming back after a loss.

import { clock } from "./dom.js";
import { members, request } from "./json.js";

const TOKEN = "iii-state-token";
const CALL_MS = 30_000;

export class CallError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** The result of a call: the text of its frame, and where the result stands in it. */
export class Reply {
  constructor(text, span) {
    this.text = text;
    this.span = span;
  }

  get object() {
    return this.span ? JSON.parse(this.text.slice(...this.span)) : null;
  }

  /** The text of a member of the result; null where there is none. */
  member(name) {
    const span = this.span && members(this.text, this.span[0]).get(name);
    return span ? this.text.slice(...span) : null;
  }
}

function stored() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

/** Takes a token out of the address of the page at once, so that it is in no history. */
function takeFromAddress() {
  const here = new URL(location.href);
  const given = here.searchParams.get("access_token");
  if (given === null) return;
  here.searchParams.delete("access_token");
  history.replaceState(history.state, "", here);
  keepToken(given);
}

function keepToken(token) {
  try {
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
  } catch { /* it is asked for again */ }
}

function protocols(token) {
  if (!token) return [];
  const text = String.fromCharCode(...new TextEncoder().encode(token));
  return ["iii-state", `bearer.${btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`];
}

export class Engine extends EventTarget {
  /** `state`: connecting, open, away (it tries again), refused (see `why`), token (it wants one). */
  state = "connecting";
  why = "";
  about = null;
  features = new Set();
  store = null;
  since = 0;
  heardAt = 0;
  #functions = new Map();
  #open = new Map();
  #delay = 500;
  #socket = null;
  #callable = new Set();
  #token;
  #timer = 0;

  constructor() {
    super();
    takeFromAddress();
    this.#token = stored();
  }

  connect() {
    clearTimeout(this.#timer);
    const address = new URL("./", document.baseURI);
    address.search = "";
    address.hash = "";
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.#socket = new WebSocket(address, protocols(this.#token)));
    let wasOpen = false;
    socket.onopen = async () => {
      wasOpen = true;
      try {
        await this.#greet();
      } catch (error) {
        this.#become("refused", error.message);
        socket.close();
      }
    };
    socket.onmessage = (event) => this.#take(event.data);
    socket.onclose = (event) => {
      if (socket === this.#socket) this.#lost(wasOpen, event.reason);
    };
  }

  useToken(token) {
    this.#token = token;
    keepToken(token);
    this.#become("connecting");
    this.connect();
  }

  get hasToken() {
    return Boolean(this.#token);
  }

  #become(state, why = "") {
    this.state = state;
    this.why = why;
    this.since = Date.now();
    this.dispatchEvent(new Event("state"));
  }

  async #greet() {
    this.#send({
      type: "invokefunction",
      function_id: "engine::workers::register",
      action: { type: "void" },
      data: { runtime: "browser", version: "1", name: "iii-state page", os: "browser", pid: null },
    });
    const list = async (prefix) => (await this.call("engine::functions::list", { prefix })).object.functions;
    const [own, operating] = await Promise.all([list("state::"), list("iii-state::")]);
    this.#callable = new Set([...own, ...operating].map((row) => row.function_id));
    const announced = own.find((row) => row.function_id === "state::set")?.metadata?.iii_state;
    this.features = new Set(announced?.features ?? []);
    const store = announced?.store ?? null;
    this.about = this.can("iii-state::about") ? (await this.call("iii-state::about", {})).object : null;
    if (this.about) clock.offset = this.about.now_ms - Date.now();
    const was = this.store;
    this.store = store;
    this.#delay = 500;
    this.heardAt = Date.now();
    this.#become("open");
    if (was !== null && store !== null && was !== store) this.dispatchEvent(new Event("replaced"));
    this.dispatchEvent(new Event("open"));
  }

  #lost(wasOpen, reason) {
    for (const [, call] of this.#open) {
      clearTimeout(call.timer);
      call.reject(
        call.changes
          ? new CallError("OUTCOME_UNKNOWN", "the connection was lost before the engine had answered")
          : new CallError("CONNECTION_LOST", "the connection to the engine was lost"),
      );
    }
    this.#open.clear();
    if (this.state === "refused" && !reason) return void this.#again();
    if (wasOpen) {
      this.#become("away", reason);
      this.#again();
      return;
    }
    this.#ask();
  }

  #again() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.connect(), this.#delay * (0.5 + Math.random() / 2));
    this.#delay = Math.min(this.#delay * 2, 10_000);
  }

  /** Browsers do not say why a WebSocket was not opened: ask with a plain request. */
  async #ask() {
    let answer = null;
    try {
      const headers = this.#token ? { Authorization: `Bearer ${this.#token}` } : {};
      answer = await fetch(new URL("ui/hello", document.baseURI), { method: "POST", headers, cache: "no-store" });
    } catch { /* nobody answers */ }
    if (answer?.status === 401) {
      const words = (await answer.text()).trim();
      keepToken(null);
      this.#become("token", this.#token ? words : "");
      this.#token = null;
    } else if (answer?.status === 403) {
      this.#become("refused", (await answer.text()).trim());
      this.#again();
    } else {
      if (this.state !== "away") this.#become("away");
      this.#again();
    }
  }

  #send(message) {
    this.#socket.send(request(message));
  }

  #take(text) {
    this.heardAt = Date.now();
    const frame = members(text);
    const get = (name) => (frame.has(name) ? JSON.parse(text.slice(...frame.get(name))) : null);
    const type = get("type");
    if (type === "invocationresult") {
      const call = this.#open.get(get("invocation_id"));
      if (!call) return;
      this.#open.delete(get("invocation_id"));
      clearTimeout(call.timer);
      const error = get("error");
      if (error) call.reject(new CallError(error.code, error.message));
      else call.resolve(new Reply(text, frame.get("result") ?? null));
    } else if (type === "invokefunction") {
      this.#serve(get("function_id"), get("invocation_id"), text, frame);
    } else if (type === "triggerregistrationresult") {
      const error = get("error");
      const told = this.#functions.get(get("function_id"));
      if (error && told) told.refused(new CallError(error.code, error.message));
    }
  }

  async #serve(functionId, invocationId, text, frame) {
    const served = this.#functions.get(functionId);
    if (!served) {
      if (invocationId) this.#send({ type: "invocationresult", invocation_id: invocationId, function_id: functionId, result: null });
      return;
    }
    const metadata = frame.has("metadata") ? JSON.parse(text.slice(...frame.get("metadata"))) : null;
    const socket = this.#socket;
    await served.take(text, frame.get("data"), metadata);
    if (invocationId && socket === this.#socket && socket.readyState === WebSocket.OPEN)
      this.#send({ type: "invocationresult", invocation_id: invocationId, function_id: functionId, result: {} });
  }

  // --- what the page asks for

  can(functionId) {
    return this.#callable.has(functionId);
  }

  has(feature) {
    return this.features.has(feature);
  }

  /** Why values cannot be changed; null where they can. */
  get readOnly() {
    if (this.about?.rights?.read_only) return "This token is read-only.";
    if (!this.can("state::update") || !this.can("state::set")) return "This token may not change values.";
    if (!this.has("if")) return "This engine has no conditions (feature `if`): an edit could undo another one, so there is none.";
    return null;
  }

  get operates() {
    return this.can("iii-state::triggers");
  }

  /** Calls a function; resolves with a `Reply`, rejects with a `CallError`. `changes`: what it does may have been done when it fails. */
  call(functionId, data, { changes = false, timeout = CALL_MS } = {}) {
    if (!this.#socket || this.#socket.readyState !== WebSocket.OPEN)
      return Promise.reject(new CallError("CONNECTION_LOST", "there is no connection to the engine"));
    return new Promise((resolve, reject) => {
      const id = uuid();
      const timer = setTimeout(() => {
        this.#open.delete(id);
        reject(new CallError(changes ? "OUTCOME_UNKNOWN" : "TIMEOUT", `no answer within ${timeout / 1000} s`));
      }, timeout);
      this.#open.set(id, { resolve, reject, timer, changes });
      this.#send({ type: "invokefunction", invocation_id: id, function_id: functionId, data });
    });
  }

  async ask(functionId, data = {}) {
    return (await this.call(functionId, data)).object;
  }

  /** Has events of state sent to `take(text, span, metadata)`, one call after the other; returns what ends that. */
  listen(config, take, refused) {
    const functionId = `iii-state::watch::${uuid()}`;
    const id = uuid();
    this.#functions.set(functionId, { take, refused });
    this.#send({ type: "registerfunction", id: functionId });
    this.#send({ type: "registertrigger", id, trigger_type: "state", function_id: functionId, config });
    const socket = this.#socket;
    return () => {
      this.#functions.delete(functionId);
      if (socket !== this.#socket || socket.readyState !== WebSocket.OPEN) return;
      this.#send({ type: "unregistertrigger", id, trigger_type: "state" });
      this.#send({ type: "unregisterfunction", id: functionId });
    };
  }

  close() {
    this.#socket?.close();
  }
}

function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID(); // only where the address is https or this machine's own
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

export const engine = new Engine();

/** Calls `look` now and every so often, while the page can be seen and the engine is there; never two at once. Returns its end. */
export function poll(milliseconds, look) {
  let timer = 0;
  let isOver = false;
  let runs = false;
  const run = async () => {
    clearTimeout(timer);
    if (isOver || runs || document.hidden || engine.state !== "open") return;
    runs = true;
    try {
      await look();
    } catch (error) {
      console.warn(error);
    }
    runs = false;
    if (!isOver) timer = setTimeout(run, milliseconds);
  };
  document.addEventListener("visibilitychange", run);
  engine.addEventListener("open", run);
  run();
  return () => {
    isOver = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", run);
    engine.removeEventListener("open", run);
  };
}
