/** Starts the page: what is served, the views, the key. */

import { showCompare, showFactsInCompare, startCompare } from "./compare.js";
import { byId, number } from "./elements.js";
import { showFactsInJudge, showJudgments, startJudge } from "./judge.js";
import { all, onJudgment, refreshThumbs } from "./judgments.js";
import { hideServe, showServe, startServe } from "./serve.js";
import { call, forgetKey, key } from "./server.js";
import { showFacts, startTry } from "./try.js";
import { startViews } from "./views.js";

const RETRY_MS = 1500;

async function start() {
  startTry();
  startCompare();
  startJudge();
  startServe();
  startViews({ compare: showCompare, judge: showJudgments, serve: showServe }, { serve: hideServe });
  onJudgment(showJudged);
  showJudged();
  byId("forget-key").addEventListener("click", () => {
    forgetKey();
    location.reload();
  });
  await showServed();
}

/** Asks until the model is there: it may still be loading, or the server stopped for a moment. */
async function showServed() {
  try {
    const info = await call("info");
    showState(`${shortName(info.model)} · ${info.device} · ${info.dtype}`, "ready");
    byId("state").title = info.model;
    showFacts(info);
    showFactsInCompare(info);
    showFactsInJudge(info);
  } catch (error) {
    const loading = error.status === 503;
    showState(loading ? "The model is loading …" : error.status === 401 ? "A key is needed" : "The server does not answer", loading ? "loading" : "away");
    if (error.status !== 401) setTimeout(showServed, RETRY_MS);
  }
  byId("forget-key").hidden = !key();
}

function showState(text, kind) {
  byId("state").textContent = text;
  byId("state").className = `state ${kind}`;
}

const shortName = (name) => name.split("/").pop();

function showJudged(problem) {
  refreshThumbs();
  const count = all().length;
  byId("judged-count").textContent = number(count);
  byId("judged-count").hidden = !count;
  if (problem) {
    byId("problem").textContent = problem;
    byId("problem").hidden = false;
  }
}

start();
