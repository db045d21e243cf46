/** Elements, made without a line of HTML: what a document holds is always shown as text. */

const PAGE = 100;
// Rows that are made at once.
const SLICE = 25;
const SLICE_MS = 25;

/** A tag with attributes, properties where the value is no text, listeners (`onclick`), and what is in it. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "hidden") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Text for a screen reader only. */
export const spoken = (text) => element("span", { class: "spoken" }, text);

const latest = new WeakMap();

/** Shows the first rows of a list, and a button for more: no list is too long for the browser, or stops it for long. */
export function showRows(body, more, rows, make) {
  let shown = 0;
  latest.set(body, rows);
  const add = async (count) => {
    const wanted = Math.min(rows.length, shown + count);
    more.hidden = true;
    while (shown < wanted && latest.get(body) === rows) {
      const end = Math.min(wanted, shown + SLICE);
      body.append(...rows.slice(shown, end).map((row, at) => make(row, shown + at)));
      shown = end;
      if (shown < wanted) await pause();
    }
    if (latest.get(body) === rows) offerMore(more, shown, rows.length, add);
  };
  body.replaceChildren();
  add(PAGE);
}

function offerMore(more, shown, all, add) {
  const next = Math.min(PAGE, all - shown);
  more.hidden = !next;
  more.replaceChildren(
    `${number(shown)} of ${number(all)} shown `,
    element("button", { type: "button", onclick: () => add(PAGE) }, `Show ${number(next)} more`),
  );
}

const pause = () => new Promise((resume) => setTimeout(resume));

/** Awaited in a long loop, lets the browser do something else when it has waited for long enough. */
export function breather() {
  let since = performance.now();
  return async () => {
    if (performance.now() - since < SLICE_MS) return;
    await pause();
    since = performance.now();
  };
}

export function debounced(milliseconds, work) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}

/** A whole number with separators between thousands. */
export const number = (value) => Math.round(value).toLocaleString("en");

export const counted = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

/** Three digits that tell something, whatever the scale of a score is. */
export const digits = (score) => (Math.abs(score) >= 100 ? score.toFixed(1) : score.toFixed(3));

export const milliseconds = (value) =>
  value < 10 ? `${value.toFixed(1)} ms` : value < 10_000 ? `${number(value)} ms` : `${(value / 1000).toFixed(1)} s`;

export async function copyText(text, button) {
  const before = button.textContent;
  const area = element("textarea", { class: "spoken", value: text });
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP, other than from this machine, there is no clipboard.
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = before), 1500);
}

/** Hands a file to the browser's downloads. */
export function download(name, content, type) {
  const link = element("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
