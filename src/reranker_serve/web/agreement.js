/** How much two rankings of the same documents agree. */

/** Kendall's tau of two lists of the same indexes, best first: 1 for the same order, -1 for the reverse. */
export function kendallTau(first, second) {
  const place = new Map(second.map((index, at) => [index, at]));
  const count = first.length;
  if (count < 2) return 1;
  return 1 - (4 * inversions(first.map((index) => place.get(index)))) / (count * (count - 1));
}

/** Pairs that stand in the wrong order, counted while sorting. */
function inversions(values) {
  if (values.length < 2) return 0;
  const middle = values.length >> 1;
  const [left, right] = [values.slice(0, middle), values.slice(middle)];
  let count = inversions(left) + inversions(right);
  let [at, other] = [0, 0];
  for (let to = 0; to < values.length; to += 1) {
    if (other >= right.length || (at < left.length && left[at] <= right[other])) values[to] = left[at++];
    else {
      values[to] = right[other++];
      count += left.length - at;
    }
  }
  return count;
}

/** How many of the first `n` of one are among the first `n` of the other. */
export function shared(first, second, n) {
  const best = new Set(second.slice(0, n));
  return first.slice(0, n).filter((index) => best.has(index)).length;
}

/** nDCG@10 of a ranking by `labelOf(index)`; what is not judged is not relevant. Null if nothing is relevant. */
export function ndcg(order, labelOf, cutoff = 10) {
  const gain = (label, at) => (label ?? 0) / Math.log2(at + 2);
  const sum = (labels) =>
    labels
      .slice(0, cutoff)
      .map(gain)
      .reduce((total, each) => total + each, 0);
  const labels = order.map(labelOf);
  const ideal = sum([...labels].sort((a, b) => (b ?? 0) - (a ?? 0)));
  return ideal ? sum(labels) / ideal : null;
}
