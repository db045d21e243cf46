/** Calls to this server: its address, the key, and errors in plain words. */

import { byId, counted } from "./elements.js";

const KEY = "reranker-serve.key";

/** What went wrong, as a sentence for the person at the screen. */
export class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Where the page stands, without what follows `?` or `#`; ends in a slash. */
export const base = new URL(".", document.baseURI).href;

const listeners = [];

/** `listener` is called when the server did not answer. */
export const onLost = (listener) => listeners.push(listener);

export const key = () => sessionStorage.getItem(KEY);

/** The JSON that a path of this server answers with. Raises `Problem`, or `AbortError` if `signal` says so. */
export async function call(path, body = undefined, signal = undefined) {
  const used = key();
  const reply = await send(path, body, signal, used);
  if (reply.status === 401 && (await askForKey(used))) return call(path, body, signal);
  if (!reply.ok) throw new Problem(await plainWords(reply), reply.status);
  return reply.json();
}

async function send(path, body, signal, used) {
  const headers = { Accept: "application/json" };
  // As UTF-8: a header holds bytes.
  if (used) headers.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(used))}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  try {
    return await fetch(new URL(path, base), {
      method,
      headers,
      signal,
      body: body && JSON.stringify(body),
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    listeners.forEach((listener) => listener());
    throw new Problem(
      "The server does not answer: it may have been stopped. Nothing here is lost; try again when it runs.",
    );
  }
}

/** The server's own reason, and what helps. */
export async function plainWords(reply) {
  const said = await reply.json().catch(() => ({}));
  const reason = sentence(
    String(said.message ?? said.detail ?? said.reason ?? `The server answered with ${reply.status}.`),
  );
  const seconds = Number(reply.headers.get("Retry-After"));
  const wait = seconds ? ` Try again in ${counted(seconds, "second")}.` : "";
  if (reply.status === 401) return "This needs a key.";
  if (reply.status === 413) return `${reason} Rank fewer or shorter documents at a time.`;
  if (reply.status === 429 || reply.status === 503) return reason + wait;
  return reason;
}

/** A field's name stays as it is written. */
const sentence = (text) =>
  (/^\w+_/.test(text) ? text : text[0].toUpperCase() + text.slice(1)) + (/[.!?]$/.test(text) ? "" : ".");

let asking = null;

/** Whether there is another key than the one that was `refused`; all calls that were refused wait for one answer. */
function askForKey(refused) {
  if (key() !== refused) return true;
  asking ??= new Promise((answer) => {
    const dialog = byId("key-dialog");
    byId("key-reason").textContent = refused
      ? "The server no longer accepts this key, or never did. Enter another one."
      : "This server asks for a key.";
    byId("key").value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => answer(takeKey(dialog.returnValue)), { once: true });
    dialog.showModal();
  }).finally(() => (asking = null));
  return asking;
}

function takeKey(pressed) {
  const given = byId("key").value.trim();
  byId("key").value = "";
  if (pressed !== "use" || !given) return false;
  sessionStorage.setItem(KEY, given);
  dispatchEvent(new Event("key"));
  return true;
}

/** Forgets the key, as one does on somebody else's machine. */
export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

/** What to tell of an error: the sentence of a `Problem`; anything else is a fault of this page. */
export function wordsOf(error) {
  if (error instanceof Problem) return error.message;
  console.error(error);
  return `This page failed: ${error.message}. Reload it; nothing is lost.`;
}
