// Matrix products, with a bias and without. As in ops/, every operation takes its inputs first and writes into `out`.

/** An array: numbers row by row, and the length of each axis. */
export function array(...shape) {
  return { data: new Float32Array(shape.reduce((a, b) => a * b, 1)), shape };
}

/**
 * A weight laid out for `multiply`: its columns in panels of four, each panel [n_in][4], the last filled up with 0.
 * `data` is [n_in, n_out], or with `byRow` [n_out, n_in].
 */
export function laidOut(data, nIn, nOut, byRow = false) {
  const panels = new Float32Array(4 * Math.ceil(nOut / 4) * nIn);
  for (let column = 0; column < nOut; column++) {
    const start = (column >> 2) * 4 * nIn + (column & 3);
    for (let k = 0; k < nIn; k++) panels[start + 4 * k] = byRow ? data[column * nIn + k] : data[k * nOut + column];
  }
  return { panels, nIn, nOut };
}

/** `x @ weight`: [n, n_in] -> [n, n_out], in tiles of two rows and four columns that stay in registers. */
export function multiply(x, weight, out) {
  const { panels, nIn, nOut } = weight,
    a = x.data,
    y = out.data,
    n = y.length / nOut,
    pairs = n - (n % 2);
  for (let column = 0; column < nOut; column += 4) {
    for (let row = 0; row < pairs; row += 2) tile(a, row * nIn, nIn, panels, column * nIn, y, row * nOut + column, nOut);
    if (n % 2) lastRow(a, (n - 1) * nIn, nIn, panels, column * nIn, y, (n - 1) * nOut + column, nOut);
  }
}

// Sums are kept in double precision, as JavaScript has them, and rounded once.
function tile(a, i, nIn, panels, start, y, at, nOut) {
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
  for (let q = start, j = i + nIn, end = i + nIn; i < end; i++, j++, q += 4) {
    const u = a[i], v = a[j];
    const w0 = panels[q], w1 = panels[q + 1], w2 = panels[q + 2], w3 = panels[q + 3];
    s0 += u * w0; s1 += u * w1; s2 += u * w2; s3 += u * w3;
    t0 += v * w0; t1 += v * w1; t2 += v * w2; t3 += v * w3;
  }
  const left = nOut - (at % nOut), below = at + nOut;
  y[at] = s0; y[below] = t0;
  if (left > 1) { y[at + 1] = s1; y[below + 1] = t1; }
  if (left > 2) { y[at + 2] = s2; y[below + 2] = t2; }
  if (left > 3) { y[at + 3] = s3; y[below + 3] = t3; }
}

function lastRow(a, i, nIn, panels, start, y, at, nOut) {
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  for (let q = start, end = i + nIn; i < end; i++, q += 4) {
    const u = a[i];
    s0 += u * panels[q]; s1 += u * panels[q + 1]; s2 += u * panels[q + 2]; s3 += u * panels[q + 3];
  }
  const left = nOut - (at % nOut);
  y[at] = s0;
  if (left > 1) y[at + 1] = s1;
  if (left > 2) y[at + 2] = s2;
  if (left > 3) y[at + 3] = s3;
}

/** `x @ weight + bias`: [pos, n_in] -> [pos, n_out]. */
export function linear(x, p, out) {
  multiply(x, p.columns, out);
  const { data } = out,
    { bias } = p;
  for (let start = 0; start < data.length; start += bias.length) for (let i = 0; i < bias.length; i++) data[start + i] += bias[i];
}

/** Dot product of each row with every row of the table: [pos, n_embd] -> [pos, vocab]. */
export function unembedding(x, table, out) {
  multiply(x, table, out);
}
