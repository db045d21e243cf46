/** Starts the page: what is served, the views, the key. */

import { showCompare, showFactsInCompare, startCompare } from "./compare.js";
import { byId, number } from "./elements.js";
import { showFactsInJudge, showJudgments, startJudge } from "./judge.js";
import { all, onJudgment, refreshThumbs } from "./judgments.js";
import { hideServe, showServe, startServe } from "./serve.js";
import { Problem, call, forgetKey, key, onLost } from "./server.js";
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
  addEventListener("key", showServed);
  onLost(() => {
    showState("The server does not answer", "away");
    askAgain();
  });
  await showServed();
}

let waiting = null;

function askAgain() {
  waiting ??= setTimeout(() => {
    waiting = null;
    showServed();
  }, RETRY_MS);
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
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) showState("A key is needed", "away");
    if (error.status !== 503) return; // who does not answer is asked again in any case
    showState("The model is loading …", "loading");
    askAgain();
  } finally {
    byId("forget-key").hidden = !key();
  }
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
