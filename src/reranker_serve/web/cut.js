/** Where the texts of a ranking were cut off: the server tells how many tokens it read, `/tokenize` where they end. */

import { call } from "./server.js";

const MOST = 20;

/** Sets `readTo` of the first rows that were cut off, in JavaScript's units of text. */
export async function locateCuts(rows, body) {
  const cut = rows.filter((row) => row.truncated).slice(0, MOST);
  if (!cut.length) return;
  const whole = rows.find((row) => !row.truncated && row.tokens) ?? (await probe(body));
  const texts = [whole.text, ...cut.map((row) => row.text)];
  const [own, ...tokens] = await call("tokenize", { inputs: texts, add_special_tokens: false });
  // What a sequence holds beside the document is the same for all: the query, and what stands around.
  const around = whole.tokens - own.length;
  cut.forEach((row, at) => {
    const last = tokens[at][Math.min(tokens[at].length, row.tokens - around) - 1];
    if (last?.stop) row.readTo = unitsOf(row.text, last.stop);
  });
}

/** A document that fits in any case, where all others were cut off. */
async function probe({ query, instruction, max_length }) {
  const text = "a";
  const reply = await call("rerank", { query, instruction, max_length, documents: [text], min_score: -1e30, min_probability: 0 });
  return { text, tokens: reply.results[0].tokens };
}

/** So many code points, which the server counts, in units of UTF-16, which JavaScript counts. */
export function unitsOf(text, points, from = 0) {
  let at = from;
  for (let left = points; left > 0 && at < text.length; left -= 1) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return at;
}
