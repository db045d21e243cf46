/** A ranking as a table: places and how they changed, scores, what was cut off, and why. */

import { unitsOf } from "./cut.js";
import { copyText, counted, digits, element, number, showRows, spoken } from "./elements.js";
import { thumbs } from "./judgments.js";

const SHORT = 320;
// Code points shown before a relevant sentence, where the text is shortened.
const BEFORE = 100;

/** The rows of a reply to `documents` (`{text}`), best first. */
export function rowsOf(reply, documents) {
  return reply.results.map((result, place) => ({
    place,
    moved: result.index - place,
    score: result.relevance_score,
    probability: result.probability,
    truncated: result.truncated ?? false,
    tokens: result.tokens,
    readTo: undefined,
    span: result.relevant_spans?.[0],
    index: result.index,
    text: documents[result.index].text,
  }));
}

/** Fills `table`'s body; returns a function that dims what `stays(row)` is false of, now and for rows shown later. */
export function showRanking(table, more, rows, query) {
  const body = table.tBodies[0];
  const scores = rows.map((row) => row.score).filter((score) => score !== null);
  const scale = {
    low: Math.min(0, ...bounds(scores)),
    high: Math.max(...bounds(scores), scores.some((each) => each > 1) ? 0 : 1),
  };
  let stays = () => true;
  const made = [];
  showRows(body, more, rows, (row) => {
    const line = rankedRow(row, scale, query);
    line.classList.toggle("below", !stays(row));
    made.push([line, row]);
    return line;
  });
  return (decide) => {
    stays = decide;
    made.forEach(([line, row]) => line.classList.toggle("below", !stays(row)));
  };
}

/** Least and greatest, also of very many. */
const bounds = (values) => [
  values.reduce((low, each) => Math.min(low, each), Infinity),
  values.reduce((high, each) => Math.max(high, each), -Infinity),
];

function rankedRow(row, scale, query) {
  return element(
    "tr",
    {},
    element("td", { class: "number" }, element("strong", {}, String(row.place + 1))),
    element("td", { class: "moved" }, movement(row.moved)),
    element("td", { class: "score" }, score(row, scale)),
    element("td", { class: "number tokens" }, row.tokens === undefined ? "" : number(row.tokens)),
    element("td", { class: "text" }, documentText(row)),
    element("td", { class: "judge" }, thumbs(query, row.text)),
  );
}

/** How far a document moved: a sign for eyes, words for ears. */
export function movement(moved) {
  if (moved === 0) return [element("span", { class: "still", "aria-hidden": "true" }, "="), spoken("same place")];
  const up = moved > 0;
  return [
    element("span", { class: up ? "up" : "down", "aria-hidden": "true" }, `${up ? "▲" : "▼"} ${Math.abs(moved)}`),
    spoken(`${up ? "up" : "down"} ${counted(Math.abs(moved), "place")}`),
  ];
}

export function score(row, { low, high }) {
  if (row.score === null) return element("span", { class: "quiet" }, "not read");
  const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
  bar.firstChild.style.width = `${(100 * (row.score - low)) / (high - low || 1)}%`;
  const probable =
    row.probability === undefined
      ? null
      : element("span", { class: "probability" }, `${(100 * row.probability).toFixed(0)} %`, spoken(" probable"));
  return [element("span", { class: "value" }, digits(row.score)), probable, bar];
}

/** The text, shortened around the best sentence, which is marked; after where it was cut it is grey. */
function documentText(row) {
  const holder = element("div", { class: "document", dir: "auto" });
  const show = (whole) => {
    holder.replaceChildren(...pieces(row, whole));
    if (row.truncated) holder.append(" ", cutBadge(row));
    if (row.text.length > SHORT) {
      const button = element("button", {
        type: "button",
        class: "link",
        "aria-expanded": String(whole),
        onclick: () => (show(!whole), holder.querySelector("button").focus()),
      });
      button.textContent = whole ? "Show less" : "Show all";
      holder.append(" ", button);
    }
  };
  show(false);
  row.redraw = () => show(false);
  return holder;
}

function cutBadge(row) {
  const share = row.readTo === undefined ? "" : `, ${Math.round((100 * row.readTo) / row.text.length)} % was read`;
  return element("span", { class: "badge" }, `cut off${share}`);
}

function pieces(row, whole) {
  const [from, to] = markOf(row);
  const start = whole || from < SHORT - BEFORE ? 0 : from - BEFORE;
  const end = whole ? row.text.length : Math.min(row.text.length, Math.max(start + SHORT, to));
  const cut = row.readTo ?? row.text.length;
  const marks = [start, from, to, cut, end].map((each) => Math.min(Math.max(each, start), end)).sort((a, b) => a - b);
  const parts = [start > 0 && "… "];
  for (let at = 0; at + 1 < marks.length; at += 1) {
    const [left, right] = [marks[at], marks[at + 1]];
    const text = row.text.slice(left, right);
    if (left === cut && left < end && right > left)
      parts.push(element("span", { class: "scissors" }, " ✂", spoken("the model read up to here")));
    if (!text) continue;
    if (left >= from && right <= to)
      parts.push(element("mark", { title: `This sentence scores ${digits(row.span.score)}` }, text));
    else if (left >= cut) parts.push(element("span", { class: "unread" }, text));
    else parts.push(text);
  }
  return [...parts.filter(Boolean), ...(end < row.text.length ? [" …"] : [])];
}

/** The best sentence, unless it is all there is. */
function markOf({ text, span }) {
  if (!span) return [0, 0];
  const [from, to] = place(text, span);
  return text.slice(from, to) === text.trim() ? [0, 0] : [from, to];
}

/** Where a span is, in units of UTF-16: the server counts code points. */
function place(text, { start, end }) {
  const first = unitsOf(text, start);
  return [first, unitsOf(text, end - start, first)];
}

const MOST_JSON = 60_000;

/** The reply as it came; of a long one the beginning, as a browser stands still over the rest. */
export function showJson(holder, reply) {
  const text = JSON.stringify(reply, null, 2);
  const shown =
    text.length > MOST_JSON
      ? `${text.slice(0, MOST_JSON)}\n… ${number(text.length - MOST_JSON)} more characters`
      : text;
  holder.querySelector("code").textContent = shown;
  const copy = holder.querySelector("button");
  copy.onclick = () => copyText(text, copy);
}
