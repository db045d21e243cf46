/** Two rankings of the same documents side by side: lengths, instructions, scales, or another server. */

import { kendallTau, ndcg, shared } from "./agreement.js";
import { DIALECTS, askOther } from "./dialects.js";
import { draft, filled } from "./draft.js";
import { byId, counted, digits, element, number, showRows } from "./elements.js";
import { labelOf } from "./judgments.js";
import { movement, score } from "./ranking.js";
import { Problem, base, call } from "./server.js";

const NAME = "reranker-serve.compare";
const SIDES = ["a", "b"];
const FIELDS = ["where", "address", "api", "model", "key", "instruction", "length", "raw"];

let running = null;
let compared = null;

export function startCompare() {
  for (const side of SIDES) {
    byId(`${side}-api`).append(...Object.keys(DIALECTS).map((name) => element("option", {}, name)));
    byId(`${side}-where`).addEventListener("change", showSides);
    byId(`side-${side}`).addEventListener("input", keep);
  }
  restore();
  showSides();
  byId("compare-form").addEventListener("submit", (event) => (event.preventDefault(), compare()));
  byId("compare-cancel").addEventListener("click", () => running?.abort());
  byId("compare").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), compare());
    if (event.key === "Escape") running?.abort();
  });
  byId("order").addEventListener("change", showCompared);
}

export function showFactsInCompare(info) {
  for (const side of SIDES) {
    byId(`${side}-length`).placeholder = info.limits.max_length;
    byId(`${side}-instruction`).closest("label").classList.toggle("missing", !info.takes_instruction);
    if (!info.takes_instruction) byId(`${side}-instruction`).value = "";
  }
}

/** What is compared, as the view is shown. */
export function showCompare() {
  const count = filled().length;
  byId("compared-draft").textContent = `“${draft.query.trim()}” and ${counted(count, "document")}`;
  showCommand();
  if (sessionStorage.getItem(`${NAME}.go`)) {
    sessionStorage.removeItem(`${NAME}.go`);
    compare();
  }
}

function keep() {
  const sides = Object.fromEntries(SIDES.map((side) => [side, chosen(side)]));
  sessionStorage.setItem(NAME, JSON.stringify(sides));
  showCommand();
}

function restore() {
  try {
    const sides = JSON.parse(sessionStorage.getItem(NAME)) ?? {};
    for (const [side, values] of Object.entries(sides)) {
      for (const name of FIELDS) {
        const field = byId(`${side}-${name}`);
        if (field.type === "checkbox") field.checked = values[name];
        else field.value = values[name];
      }
    }
  } catch {
    // Another version of this page wrote it.
  }
}

function chosen(side) {
  return Object.fromEntries(
    FIELDS.map((name) => {
      const field = byId(`${side}-${name}`);
      return [name, field.type === "checkbox" ? field.checked : field.value.trim()];
    }),
  );
}

function showSides() {
  for (const side of SIDES) {
    const here = byId(`${side}-where`).value === "here";
    byId(`${side}-here`).hidden = !here;
    byId(`${side}-other`).hidden = here;
  }
}

/** For servers that let no page call them, and for models that are not served. */
function showCommand() {
  const b = chosen("b");
  const other = b.where === "other" && b.address ? b.address : "OTHER_MODEL_OR_URL";
  byId("compare-command").textContent =
    `reranker-serve compare --data judgments.jsonl ${base.replace(/\/$/, "")} ${other}`;
}

async function compare() {
  if (running) return;
  const sides = SIDES.map(chosen);
  const documents = filled();
  const problem = whatIsMissing(sides, documents);
  if (problem) return showProblem(problem);
  const stranger = sides.find((side) => side.where === "other" && !mayCall(side.address));
  if (stranger) return permit(stranger.address);
  running = new AbortController();
  showBusy(true);
  try {
    const found = await Promise.all(
      sides.map((side) =>
        ask(
          side,
          documents.map(({ text }) => text),
          running.signal,
        ),
      ),
    );
    compared = { documents, found, orders: found.map(orderOf), query: draft.query.trim() };
    showCompared();
  } catch (error) {
    running.abort();
    if (error.name !== "AbortError" && !(error instanceof Problem)) throw error;
    showProblem(error instanceof Problem ? error.message : "Cancelled.");
  } finally {
    running = null;
    showBusy(false);
  }
}

function whatIsMissing(sides, documents) {
  if (!draft.query.trim() || documents.length < 2) return "Under Try there must be a query and at least two documents.";
  for (const side of sides) {
    if (side.where === "other" && !URL.canParse(side.address))
      return "Write the other server's address in full: https://rerank.example.com.";
  }
  if (JSON.stringify(sides[0]) === JSON.stringify(sides[1]))
    return "A and B ask for the same. Change something: a length, an instruction, or the server.";
  return "";
}

/** The page may call one other server: the one that its address names, see the page's policy. */
const mayCall = (address) =>
  [location.origin, new URLSearchParams(location.search).get("with")].includes(new URL(address).origin);

function permit(address) {
  sessionStorage.setItem(`${NAME}.go`, "1");
  location.href = `${base}?with=${new URL(address).origin}#compare`;
}

async function ask(side, documents, signal) {
  const query = draft.query.trim();
  if (side.where === "other") {
    return askOther({
      address: side.address,
      dialect: side.api,
      key: side.key,
      model: side.model,
      query,
      documents,
      signal,
    });
  }
  const body = { query, documents, return_documents: false };
  if (side.instruction) body.instruction = side.instruction;
  if (side.length) body.max_length = Number(side.length);
  if (side.raw) body.raw_scores = true;
  const reply = await call("rerank", body, signal);
  return new Map(reply.results.map((row) => [row.index, row.relevance_score]));
}

/** Indexes, best first; what a server left out comes last. */
function orderOf(scores, _, all) {
  const indexes = [...new Set(all.flatMap((each) => [...each.keys()]))].sort((a, b) => a - b);
  return indexes.sort((a, b) => (scores.get(b) ?? -Infinity) - (scores.get(a) ?? -Infinity) || a - b);
}

function showBusy(busy) {
  byId("compare-cancel").hidden = !busy;
  byId("compare-run").textContent = busy ? "Comparing …" : "Compare";
  byId("compare-run").setAttribute("aria-disabled", String(busy));
  if (busy) byId("compare-problem").hidden = true;
}

function showProblem(text) {
  byId("compare-problem").textContent = text;
  byId("compare-problem").hidden = false;
}

function showCompared() {
  if (!compared) return;
  const { documents, found, orders, query } = compared;
  const places = orders.map((order) => new Map(order.map((index, place) => [index, place])));
  const rows = orders[0].map((index) => ({ index, a: places[0].get(index), b: places[1].get(index) }));
  byId("compared").hidden = false;
  showFigures(rows, orders, query, documents);
  const by = {
    a: (row) => row.a,
    b: (row) => row.b,
    moved: (row) => -Math.abs(row.a - row.b),
  }[byId("order").value];
  rows.sort((first, second) => by(first) - by(second));
  const scales = found.map((scores) => {
    const values = [...scores.values()];
    return {
      low: values.reduce((low, each) => Math.min(low, each), 0),
      high: values.reduce((high, each) => Math.max(high, each), values.some((each) => each > 1) ? 0 : 1),
    };
  });
  showRows(byId("comparison").tBodies[0], byId("more-compared"), rows, ({ index, a, b }) => {
    const text = documents[index].text;
    const cell = (side) =>
      element(
        "td",
        { class: "score" },
        found[side].has(index)
          ? score({ score: found[side].get(index) }, scales[side])
          : element("span", { class: "quiet" }, "left out"),
      );
    return element(
      "tr",
      {},
      element("td", { class: "number" }, String(a + 1)),
      element("td", { class: "number" }, String(b + 1)),
      element("td", { class: "moved" }, movement(a - b)),
      cell(0),
      cell(1),
      element("td", { class: "document", dir: "auto" }, text.length > 240 ? `${text.slice(0, 240)} …` : text),
    );
  });
}

function showFigures(rows, orders, query, documents) {
  const tau = kendallTau(orders[0], orders[1]);
  const moved = rows.filter((row) => row.a !== row.b).length;
  const most = rows.reduce((best, row) => (Math.abs(row.a - row.b) > Math.abs(best.a - best.b) ? row : best), rows[0]);
  const figure = (value, what, title) => element("div", { title }, element("dt", {}, what), element("dd", {}, value));
  const tops = [1, 3, 5, 10]
    .filter((n) => n <= rows.length)
    .map((n) => figure(`${shared(orders[0], orders[1], n)} of ${n}`, `in both top ${n}`));
  const judged = orders.map((order) => ndcg(order, (index) => labelOf(query, documents[index].text)));
  byId("figures").replaceChildren(
    figure(digits(tau), "Kendall tau", "1: the same order, 0: no relation, -1: the reverse"),
    ...tops,
    figure(`${number(moved)} of ${number(rows.length)}`, "moved"),
    figure(most.a === most.b ? "none" : `${most.a + 1} → ${most.b + 1}`, "largest move, A to B"),
    ...(judged[0] === null
      ? []
      : [figure(`${digits(judged[0])} / ${digits(judged[1])}`, "nDCG@10 by your judgments, A / B")]),
  );
}
