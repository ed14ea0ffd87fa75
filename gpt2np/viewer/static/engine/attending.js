// Attention between positions: scores of queries and keys, softmax, and the mix of values.

/** Queries, keys and values of a row lie side by side: part 0, 1 or 2 of them. [pos, 3*n_embd] -> [pos, head, d_head]. */
export function split_qkv(qkv, part, out) {
  const n = out.data.length / out.shape[0];
  for (let row = 0; row < out.shape[0]; row++) {
    const start = (3 * row + part) * n;
    out.data.set(qkv.data.subarray(start, start + n), row * n);
  }
}

/**
 * Scaled dot products of queries and keys, -Infinity where the key is in the query's future.
 * [query, head, d_head], [key, head, d_head] -> [head, query, key]. The queries are the last ones.
 */
export function scaled_scores(q, k, scale, out) {
  const [heads, queries, keys] = out.shape,
    size = q.shape[2],
    past = keys - queries;
  for (let head = 0; head < heads; head++) {
    for (let query = 0; query < queries; query++) {
      const row = (head * queries + query) * keys,
        a = (query * heads + head) * size;
      for (let key = 0; key < keys; key++) {
        out.data[row + key] =
          key > past + query ? -Infinity : scale * dot(q.data, a, k.data, (key * heads + head) * size, size);
      }
    }
  }
}

function dot(a, i, b, j, n) {
  let sum = 0;
  for (let end = i + n; i < end; i++, j++) sum += a[i] * b[j];
  return sum;
}

/** exp(x) divided by its sum along the last axis, shifted by the maximum so that nothing overflows. */
export function softmax(x, out) {
  const n = x.shape[x.shape.length - 1];
  for (let start = 0; start < x.data.length; start += n) {
    let most = -Infinity,
      sum = 0;
    for (let i = start; i < start + n; i++) most = Math.max(most, x.data[i]);
    for (let i = start; i < start + n; i++) sum += out.data[i] = Math.exp(x.data[i] - most);
    for (let i = start; i < start + n; i++) out.data[i] /= sum;
  }
}

/** Values averaged with the pattern as weights: [head, query, key], [key, head, d_head] -> [query, head, d_head]. */
export function mix(pattern, v, out) {
  const [heads, queries, keys] = pattern.shape,
    size = v.shape[2],
    row = new Float64Array(size);
  for (let head = 0; head < heads; head++) {
    for (let query = 0; query < queries; query++) {
      row.fill(0);
      for (let key = 0; key < keys; key++) {
        const share = pattern.data[(head * queries + query) * keys + key],
          start = (key * heads + head) * size;
        if (share !== 0) for (let i = 0; i < size; i++) row[i] += share * v.data[start + i];
      }
      out.data.set(row, (query * heads + head) * size);
    }
  }
}
