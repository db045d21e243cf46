/** The view of what is served, how fast, and who had how much of it; asks while it is seen, and not else. */

import { byId, element, milliseconds, number } from "./elements.js";
import { Problem, call } from "./server.js";

const EVERY_MS = 2000;
const DAY_MS = 24 * 3600 * 1000;
const MONTH_S = 30 * 24 * 3600;

let timer = null;
let shown = false;
let latest = 0;

export function startServe() {
  byId("usage-days").addEventListener("change", refresh);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
}

export function showServe() {
  shown = true;
  refresh();
}

export function hideServe() {
  shown = false;
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++latest; // of two that are under way, the one that was asked for last shows and goes on
  if (!shown || document.hidden) return;
  let again = EVERY_MS;
  try {
    const stats = await call(`stats?by=key&since=${firstDay(Number(byId("usage-days").value) || 1)}`);
    if (mine !== latest) return;
    show(stats);
    byId("serve-problem").hidden = true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (mine !== latest) return;
    byId("serve-problem").textContent =
      error.status === 404 ? "This server tells no figures: RERANKER_ENABLE_METRICS is off." : error.message;
    byId("serve-problem").hidden = false;
    if (error.status === 404 || error.status === 401) again = null;
  }
  if (again) timer = setTimeout(refresh, again);
}

/** The first of the last `days` days, of which today is one; in UTC, as the server counts them. */
const firstDay = (days) => new Date(Date.now() - (days - 1) * DAY_MS).toISOString().slice(0, 10);

const pair = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

function show(stats) {
  const { cache, latency_ms: latency } = stats;
  const asked = cache.hits + cache.misses;
  byId("loads").replaceChildren(
    pair("requests a second", stats.requests_per_second.toFixed(1)),
    pair("pairs a second", number(stats.pairs_per_second)),
    pair("half within", latency.p50 === null ? "–" : milliseconds(latency.p50)),
    pair("95 % within", latency.p95 === null ? "–" : milliseconds(latency.p95)),
    pair("work in the queue", `${stats.queue_seconds.toFixed(1)} s`),
    pair("from the cache, since the start", asked ? `${((100 * cache.hits) / asked).toFixed(0)} %` : "–"),
  );
  byId("served").replaceChildren(
    pair("Model", stats.model),
    pair("Device", stats.device),
    pair("Precision", stats.precision),
    pair("Attention", stats.attention),
    pair("Up for", lasting(stats.uptime_seconds)),
    pair("Workers", stats.workers === 1 ? "1" : `${stats.workers}; the figures are those of the one that answered`),
  );
  showKeys(stats);
  showCosts(stats);
}

const AMOUNTS = ["requests", "documents", "tokens", "search_units"];

/** Of this process since its start; of the chosen days, and then of all processes, where a file keeps usage. */
function showKeys(stats) {
  const choice = byId("usage-days");
  choice.hidden = stats.usage === null;
  byId("usage-title").textContent = choice.hidden ? "Usage since the start" : "Usage";
  const kept = choice.value && stats.usage?.map((row) => ({ ...row, name: row.key }));
  const keys = kept || stats.keys;
  byId("no-keys").hidden = keys.length > 0;
  byId("keys").hidden = !keys.length;
  byId("keys").tBodies[0].replaceChildren(
    ...keys.map((key) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, key.name ?? "without a key"),
        AMOUNTS.map((name) => element("td", { class: "number" }, number(key[name]))),
      ),
    ),
  );
}

function showCosts({ keys, prices, uptime_seconds: up }) {
  const total = (unit) => keys.reduce((sum, key) => sum + key[unit], 0);
  byId("price-date").textContent = prices.date;
  byId("costs").tBodies[0].replaceChildren(
    ...prices.rows.map((row) => {
      const cost = (total(row.unit) / row.per) * row.price_usd;
      return element(
        "tr",
        {},
        element("th", { scope: "row" }, `${row.vendor} ${row.model}`),
        element("td", {}, `$${row.price_usd} per ${number(row.per)} ${row.unit.replace("_", " ")}`),
        element("td", { class: "number" }, dollars(cost)),
        element("td", { class: "number" }, up < 600 ? "–" : dollars((cost * MONTH_S) / up)),
      );
    }),
  );
}

const dollars = (amount) =>
  amount && amount < 0.01
    ? "under $0.01"
    : `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;

function lasting(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} minutes`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} hours` : `${Math.round(seconds / 86_400)} days`;
}
