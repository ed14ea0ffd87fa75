// Two runs held against each other: which position is which, and how far everything in between has moved.

/** Where each position of `after` stood in `before`; null for a token that was not there. */
export function aligned(before, after) {
  const a = before.ids,
    b = after.ids;
  let first = 0,
    last = 0;
  while (first < Math.min(a.length, b.length) && a[first] === b[first]) first++;
  while (last < Math.min(a.length, b.length) - first && a[a.length - 1 - last] === b[b.length - 1 - last]) last++;
  const swapped = a.length === b.length;
  return b.map((_, pos) => {
    if (pos < first || swapped) return pos;
    return pos >= b.length - last ? pos - b.length + a.length : null;
  });
}

/** Positions whose token is another, or new. */
export function changedTokens(before, after) {
  return aligned(before, after).flatMap((was, pos) => (was === null || before.ids[was] !== after.ids[pos] ? [pos] : []));
}

/** How far the stream has moved, relative to its length: [embed and each layer][position], null where there was none. */
export function movedStream(before, after) {
  const rows = [["embed", 0], ...Array.from({ length: after.L }, (_, layer) => ["resid_post", layer])];
  const places = aligned(before, after);
  return rows.map(([site, layer]) =>
    places.map((was, pos) => {
      if (was === null) return null;
      const x = before.strip(site, layer, was),
        y = after.strip(site, layer, pos);
      let moved = 0,
        size = 0;
      for (let i = 0; i < x.length; i++) {
        const apart = y[i] - x[i];
        moved += apart * apart;
        size += x[i] * x[i];
      }
      return Math.sqrt(moved / (size || 1));
    }),
  );
}

/** How much of its attention each head sends elsewhere, mean over the positions that both have: [layer][head], 0 to 1. */
export function movedHeads(before, after) {
  const places = aligned(before, after);
  const ofHead = (layer, head) => {
    let total = 0,
      n = 0;
    places.forEach((was, query) => {
      if (was === null) return;
      const x = before.weights(layer, head, was),
        y = after.weights(layer, head, query);
      let same = 0; // what goes to the same token in both
      for (let key = 0; key <= query; key++)
        if (places[key] !== null && places[key] <= was) same += Math.min(y[key], x[places[key]]);
      total += 1 - Math.min(1, same);
      n++;
    });
    return n ? total / n : 0;
  };
  return Array.from({ length: after.L }, (_, layer) => Array.from({ length: after.H }, (_, head) => ofHead(layer, head)));
}

/** Loss of each token in nats: what the model lost by not having foreseen it; null for the first. */
export function losses(run) {
  return run.ids.map((_, pos) => (pos ? -Math.log(run.at("token:p", pos)[0]) : null));
}

/** Mean loss in nats a token, null of one token. */
export function meanLossOf(run) {
  const known = losses(run).slice(1);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
}
