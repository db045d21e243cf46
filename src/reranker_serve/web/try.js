/** The view in which documents are ranked. */

import { locateCuts } from "./cut.js";
import { change, draft, filled, onDraft, request, setTakesInstruction } from "./draft.js";
import { startDocuments } from "./editor.js";
import { byId, copyText, counted, debounced, digits, element, milliseconds, number } from "./elements.js";
import { rowsOf, showJson, showRanking } from "./ranking.js";
import { Problem, base, call, key, wordsOf } from "./server.js";
import { SNIPPETS, isShortened, shortened } from "./snippets.js";

let running = null;
let result = null;
let dim = () => {};
let language = "curl";
let facts = null;

export function startTry() {
  startRequest();
  startDocuments();
  startResult();
  startSnippets();
}

/** What `/info` tells: which fields this model has, and what its scores mean. */
export function showFacts(info) {
  facts = info;
  byId("instruction-field").hidden = !info.takes_instruction;
  setTakesInstruction(info.takes_instruction);
  byId("max-length").placeholder = info.limits.max_length;
  byId("max-length").max = info.limits.max_length;
}

// The request

function startRequest() {
  const fields = { query: "query", instruction: "instruction" };
  for (const [id, name] of Object.entries(fields)) {
    byId(id).value = draft[name];
    byId(id).addEventListener("input", () => change({ [name]: byId(id).value }));
  }
  byId("spans").checked = draft.spans;
  byId("raw-scores").checked = draft.rawScores;
  byId("max-length").value = draft.maxLength ?? "";
  byId("spans").addEventListener("change", () => change({ spans: byId("spans").checked }));
  byId("raw-scores").addEventListener("change", () => change({ rawScores: byId("raw-scores").checked }));
  byId("max-length").addEventListener("input", () => change({ maxLength: Number(byId("max-length").value) || null }));
  byId("request").addEventListener("submit", (event) => (event.preventDefault(), rank()));
  byId("cancel").addEventListener("click", () => running?.abort());
  byId("try").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), rank());
    if (event.key === "Escape") running?.abort();
  });
}

async function rank() {
  if (running) return;
  const documents = filled().map(({ text }) => ({ text }));
  const body = request(documents);
  const missing = !body.query
    ? "Write a query first."
    : !documents.length
      ? "There are no documents yet: paste some lines, or press Sample."
      : "";
  if (missing) return showProblem(missing);
  running = new AbortController();
  showBusy(true);
  const start = performance.now();
  try {
    const reply = await call("rerank", body, running.signal);
    showResult({ body, documents, reply, took: performance.now() - start });
  } catch (error) {
    showProblem(error.name === "AbortError" ? "Cancelled. The server stops computing, too." : wordsOf(error));
  } finally {
    running = null;
    showBusy(false);
  }
}

function showBusy(busy) {
  byId("cancel").hidden = !busy;
  byId("rank").setAttribute("aria-disabled", String(busy));
  byId("rank").textContent = busy ? "Ranking …" : "Rank";
  if (busy) byId("problem").hidden = true;
}

function showProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = false;
}

// The result

function startResult() {
  byId("threshold").addEventListener("input", () => setThreshold(Number(byId("threshold").value)));
  byId("threshold-value").addEventListener("input", () =>
    setThreshold(Number(byId("threshold-value").value), byId("threshold-value")),
  );
  byId("threshold-of").addEventListener("change", showThreshold);
  byId("as-table").addEventListener("click", () => showAs("table"));
  byId("as-json").addEventListener("click", () => showAs("json"));
}

function showAs(form) {
  for (const name of ["table", "json"]) {
    byId(`as-${name}`).setAttribute("aria-pressed", String(name === form));
    byId(`${name}-holder`).hidden = name !== form;
  }
  if (form === "json") showJson(byId("json-holder"), result.reply);
}

function showResult(found) {
  result = { ...found, rows: rowsOf(found.reply, found.documents) };
  const { reply, rows, body } = result;
  byId("nothing").hidden = true;
  byId("result").hidden = false;
  byId("ranking").classList.toggle(
    "no-tokens",
    rows.every((row) => row.tokens === undefined),
  );
  byId("scale").textContent = facts ? scaleOf(facts.score_scale, body.raw_scores) : "";
  showSummary();
  dim = showRanking(byId("ranking"), byId("more-results"), rows, body.query);
  byId("threshold-of").hidden = rows.every((row) => row.probability === undefined);
  if (byId("threshold-of").hidden) byId("threshold-of").value = "score";
  showThreshold();
  if (!byId("json-holder").hidden) showJson(byId("json-holder"), reply);
  if (!reply.query_truncated) markCuts(rows, body);
  // On a narrow screen the result stands below all documents.
  if (byId("result").getBoundingClientRect().top > innerHeight - 100) byId("result").scrollIntoView({ block: "start" });
}

/** Shown when it is known: the ranking does not wait for it. */
async function markCuts(rows, body) {
  try {
    await locateCuts(rows, body);
    rows.filter((row) => row.readTo !== undefined).forEach((row) => row.redraw?.());
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // without it there are just no marks
  }
}

/** The half of the sentence that is about the scores shown. */
function scaleOf(sentence, raw) {
  const parts = sentence.split("; raw score");
  return raw && parts.length > 1 ? `raw score${parts[1]}` : parts[0];
}

function showSummary() {
  const { reply, rows, took } = result;
  const { tokenize_ms, queue_ms, inference_ms, total_ms } = reply.timings;
  const cut = rows.filter((row) => row.truncated).length;
  const moved = rows.filter((row) => row.moved).length;
  const speed = inference_ms ? `${number((1000 * rows.length) / total_ms)} a second` : "known from before";
  byId("result-summary").replaceChildren(
    element("strong", {}, counted(rows.length, "document")),
    ` in ${milliseconds(total_ms)}, ${speed}. ${number(moved)} moved.`,
    reply.usage ? ` ${counted(reply.usage.prompt_tokens, "token")} read.` : "",
    cut ? ` ${counted(cut, "document")} cut off.` : "",
    reply.query_truncated ? " The query was cut off." : "",
    reply.left_out ? ` ${number(reply.left_out)} more are below the server's own threshold and did not come back.` : "",
  );
  const parts = [
    ["tokenize", tokenize_ms],
    ["queue", queue_ms],
    ["compute", inference_ms],
    ["other", Math.max(0, total_ms - tokenize_ms - queue_ms - inference_ms)],
    ["network", Math.max(0, took - total_ms)],
  ];
  const words = parts.map(([name, time]) => `${name} ${milliseconds(time)}`).join(", ");
  const whole = parts.reduce((sum, [, time]) => sum + time, 0) || 1;
  byId("times").setAttribute("aria-label", `Where the time went: ${words}`);
  byId("times").replaceChildren(
    ...parts.map(([name, time]) => {
      const part = element("span", { class: name });
      part.style.width = `${(100 * time) / whole}%`;
      return part;
    }),
  );
  byId("time-legend").replaceChildren(
    ...parts.map(([name, time]) => element("span", { class: name }, `${name} ${milliseconds(time)}`)),
  );
}

// The threshold

const measured = (row) => (byId("threshold-of").value === "probability" ? row.probability : row.score);

function showThreshold() {
  const values = result.rows.map(measured).filter((each) => typeof each === "number");
  const unit = byId("threshold-of").value === "probability" || !result.body.raw_scores;
  const [low, high] = unit ? [0, 1] : [values.at(-1) ?? 0, values[0] ?? 1];
  Object.assign(byId("threshold"), { min: low, max: high, step: (high - low) / 1000 || "any" });
  setThreshold(low);
}

function setThreshold(value, source) {
  byId("threshold").value = value;
  if (source !== byId("threshold-value")) byId("threshold-value").value = Number(digits(value));
  result.threshold = value;
  const least = Number(byId("threshold").min);
  result.threshold = value > least ? value : null;
  const stays = (row) => result.threshold === null || measured(row) >= value;
  const count = result.rows.filter(stays).length;
  byId("stays").textContent = `${number(count)} of ${number(result.rows.length)} stay`;
  byId("threshold").setAttribute("aria-valuetext", `${digits(value)}, ${count} of ${result.rows.length} stay`);
  dimSoon(stays);
  showSnippet();
}

let wanted = null;

function dimSoon(stays) {
  if (!wanted) requestAnimationFrame(() => (dim(wanted), (wanted = null)));
  wanted = stays;
}

// The call as code

function startSnippets() {
  const buttons = Object.keys(SNIPPETS).map((name) =>
    element("button", { type: "button", "aria-pressed": String(name === language), onclick: () => choose(name) }, name),
  );
  const choose = (name) => {
    language = name;
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === name)));
    showSnippet();
  };
  byId("languages").append(...buttons);
  byId("copy-call").addEventListener("click", () => copyText(snippet(bodyShown()), byId("copy-call")));
  byId("call").addEventListener("toggle", showSnippet);
  onDraft(showSnippet);
  showSnippet();
}

/** The draft as a call, with the threshold that the slider shows. */
function bodyShown() {
  const { return_documents: _, ...body } = request();
  // A threshold holds on the scale of the scores that it was set on.
  if (result?.threshold && body.raw_scores === result.body.raw_scores)
    body[byId("threshold-of").value === "probability" ? "min_probability" : "min_score"] = shortest(result.threshold);
  return body;
}

/** In three digits, unless they would leave out what stays here. */
function shortest(threshold) {
  const short = Number(threshold.toFixed(3));
  return short > threshold ? threshold : short;
}

const snippet = (body) => SNIPPETS[language](body, base.replace(/\/$/, ""), Boolean(key()));

const showSnippet = debounced(120, () => {
  if (!byId("call").open) return;
  const body = bodyShown();
  byId("snippet").textContent = snippet(shortened(body));
  byId("snippet-note").hidden = !isShortened(body);
  const all = number(body.documents.length);
  byId("snippet-note").textContent = `Shown with the first documents only, and long ones shortened. Copy has all ${all}.`;
});
