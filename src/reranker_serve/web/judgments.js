/** Judgments: which document is relevant to which query. Kept in this browser, the same for all its tabs. */

import { element } from "./elements.js";

const NAME = "reranker-serve.judgments";

/** Called when a judgment was made, here or in another tab; with a reason if it could not be kept. */
export const onJudgment = (listener) => listeners.push(listener);
const listeners = [];
const tell = (problem) => listeners.forEach((listener) => listener(problem));

const keyOf = (query, document) => JSON.stringify([query, document]);
let judgments = read();

/** `[{query, document, label, time}]`, in the order in which they were made. */
export const all = () => [...judgments.values()];

function read() {
  try {
    const rows = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return new Map(rows.map((row) => [keyOf(row.query, row.document), row]));
  } catch {
    return new Map();
  }
}

/** The label of a document, or undefined. */
export const labelOf = (query, document) => judgments.get(keyOf(query, document))?.label;

/** Keeps labels, later ones instead of earlier ones; a label of null takes a judgment away. */
export function judge(rows) {
  judgments = read(); // what another tab has judged meanwhile
  for (const { query, document, label, time } of rows) {
    const name = keyOf(query, document);
    judgments.delete(name);
    if (label !== null) judgments.set(name, { query, document, label, time: time ?? new Date().toISOString() });
  }
  try {
    localStorage.setItem(NAME, JSON.stringify(all()));
    tell();
  } catch {
    judgments = read();
    tell("This browser has no room for more judgments: export those there are under Judge, then clear them.");
  }
}

addEventListener("storage", ({ key }) => {
  if (key !== NAME) return;
  judgments = read();
  tell();
});

/** Two buttons that judge a document and show how it is judged. */
export function thumbs(query, document) {
  const button = (label, sign, name) =>
    element(
      "button",
      {
        type: "button",
        class: "thumb",
        "data-label": label,
        title: name,
        "aria-label": name,
        onclick: () => press(label),
      },
      icon(sign),
    );
  const press = (label) => {
    judge([{ query, document, label: labelOf(query, document) === label ? null : label }]);
  };
  const pair = element(
    "span",
    { class: "thumbs", role: "group", "aria-label": "Judge" },
    button(1, "up", "Relevant"),
    button(0, "down", "Not relevant"),
  );
  pair.refresh = () => {
    const label = labelOf(query, document);
    for (const each of pair.children)
      each.setAttribute("aria-pressed", String(Number(each.dataset.label) === (label > 1 ? 1 : label)));
  };
  pair.refresh();
  return pair;
}

/** All buttons on the page show what holds now. */
export const refreshThumbs = () => document.querySelectorAll(".thumbs").forEach((pair) => pair.refresh());

const SVG = "http://www.w3.org/2000/svg";

function icon(sign) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  if (sign === "down") svg.setAttribute("class", "turned");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute(
    "d",
    "M2 7h2.5v6.5H2zM6 7.2 8.8 1.8c1 0 1.6.7 1.6 1.7L10 6h3a1.3 1.3 0 0 1 1.3 1.6l-1 4.7a1.6 1.6 0 0 1-1.5 1.2H6z",
  );
  svg.append(path);
  return svg;
}
