// Heads, MLPs and positions that are switched off, as the edits of `model.trace(text, edits=...)` do it.

/**
 * What changes the result of a step, null where nothing is off. A head's result is 0 (`zero(heads=[...])` of attn.z), an
 * MLP writes 0 (`zero()` of mlp.out), and a position is hidden from those after it: their scores of its key are -Infinity.
 */
export function editOf({ heads = [], mlps = [], positions = [] }) {
  if (!heads.length && !mlps.length && !positions.length) return null;
  return (name, { data, shape }, first) => {
    const layer = Number(name.split(".")[1]);
    if (name.endsWith(".attn.z")) {
      const [pos, n_head, size] = shape;
      for (const [of, head] of heads) {
        if (of !== layer) continue;
        for (let row = 0; row < pos; row++) data.fill(0, (row * n_head + head) * size, (row * n_head + head + 1) * size);
      }
    } else if (name.endsWith(".mlp.out") && mlps.includes(layer)) {
      data.fill(0);
    } else if (name.endsWith(".attn.scores")) {
      const [n_head, queries, keys] = shape;
      for (const key of positions) {
        for (let row = 0; row < n_head * queries; row++) {
          if (key < first + (row % queries)) data[row * keys + key] = -Infinity;
        }
      }
    }
  };
}

/** The same in words, as a page says it of a run. */
export function toldEdits({ heads = [], mlps = [], positions = [] }) {
  return [
    ...heads.map(([layer, head]) => `layer ${layer} head ${head} off`),
    ...mlps.map((layer) => `MLP ${layer} off`),
    ...positions.map((pos) => `position ${pos} hidden`),
  ];
}
