// The matrices: each a box of its size, and the one that is clicked a map of its blocks, in the chosen layer.

import { absent, canvasFont, colour, digits, el, fullColour, hideTip, isPrinting, paperRoom, place, quoted, scaleKey, showTip, sized } from "./drawing.js";

const LARGEST_BOX = 150; // pixels of the longer side of the largest matrix
const LARGEST_MAP = 560; // and of a map
const MEASURES = ["root mean square", "mean"];
const PURPOSE = {
  W_E: "a row for each token of the vocabulary: its embedding",
  W_P: "a row for each position: its embedding",
  W_U: "a row for each token: what the final vector is compared with",
  W_Q: "makes queries; its columns are heads side by side",
  W_K: "makes keys; its columns are heads side by side",
  W_V: "makes values; its columns are heads side by side",
  W_O: "writes what heads gathered; its rows are heads one below the other",
  W_in: "a column for each neuron: what it reads",
  W_gate: "a column for each neuron: what opens its gate",
  W_up: "a column for each neuron: what passes its gate",
  W_out: "a row for each neuron: what it writes",
};

export function matrixMap(run, focus) {
  let chosen = null,
    measure = MEASURES[0];
  const most = Math.sqrt(Math.max(...run.matrices.flatMap(({ shape }) => shape)));
  const buttons = run.matrices.map((matrix) => boxOf(matrix));
  const boxes = el("div", { class: "boxes" }, buttons);
  const canvas = el("canvas", { role: "img" }),
    title = el("h4", {}),
    told = el("p", { class: "small" }),
    key = el("span", {}),
    missing = el("div", {});
  const toggle = MEASURES.map((kind) =>
    el(
      "button",
      {
        type: "button",
        onclick: () => {
          measure = kind;
          draw(focus.state);
        },
      },
      kind,
    ),
  );
  const map = el(
    "div",
    { class: "matrix-map", hidden: true },
    el("div", { class: "row-head" }, title, el("div", { class: "toggle", role: "group", "aria-label": "what a cell shows" }, toggle)),
    told,
    key,
    canvas,
  );
  const hint = el("p", { class: "small on-screen" }, "Click a box to see its weights.");

  function boxOf(matrix) {
    const { name, shape } = matrix;
    const box = el("span", { class: "box" });
    box.style.width = `${(LARGEST_BOX * Math.sqrt(shape[1])) / most}px`;
    box.style.height = `${(LARGEST_BOX * Math.sqrt(shape[0])) / most}px`;
    const [sides, all] = [shape.map((n) => n.toLocaleString("en")).join(" × "), (shape[0] * shape[1]).toLocaleString("en")];
    return el(
      "button",
      {
        type: "button",
        class: "boxed",
        title: PURPOSE[name] ?? `makes ${matrix.site}`,
        onclick: () => {
          chosen = chosen === matrix ? null : matrix;
          focus.told(new Set()); // the caption too is drawn anew
        },
      },
      box,
      el("code", {}, name),
      el("small", {}, sides, " ", el("span", {}, `= ${all}`)),
    );
  }

  function draw(state) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(run.matrices[i] === chosen)));
    toggle.forEach((button, i) => button.setAttribute("aria-pressed", String(MEASURES[i] === measure)));
    hint.hidden = Boolean(chosen);
    map.hidden = !chosen || !run.has(`matrix:${chosen.name}`);
    missing.replaceChildren(...(chosen && map.hidden ? [absent(run, "matrices", "Maps of matrices are")] : []));
    if (!map.hidden) paint(blocksOf(run, chosen, state.layer, measure), state.layer);
  }

  function paint(blocks, layer) {
    const { cells, rows, columns, high, wide } = blocks;
    const { name, shape, layered } = chosen;
    title.textContent = `${name}${layered ? ` of layer ${layer}` : ""}`;
    const each = high * wide === 1 ? "Every cell is one weight" : `Every cell is the ${measure} of a block of ${high} × ${wide} weights`;
    const purpose = PURPOSE[name] ?? `makes ${chosen.site}`;
    told.textContent = `${purpose[0].toUpperCase()}${purpose.slice(1)}. ${each}${high * wide === 1 && measure === MEASURES[0] ? ", without its sign" : ""}. `;
    const scale = scaleOf(cells, measure);
    key.replaceChildren(scale.key);
    const room = Math.max(200, Math.min(LARGEST_MAP, isPrinting() ? paperRoom() : map.clientWidth));
    const left = 3.4 * parseFloat(getComputedStyle(document.documentElement).fontSize);
    const top = 22,
      width = room - left,
      height = Math.max(60, Math.min(width, (width * rows) / columns));
    const context = sized(canvas, room, top + height + 2);
    const [w, h] = [width / columns, height / rows];
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        context.fillStyle = scale.paint(cells[i * columns + j]);
        context.fillRect(left + j * w, top + i * h, w + 0.4, h + 0.4); // no seams
      }
    const style = getComputedStyle(map);
    context.font = canvasFont(0.75);
    context.fillStyle = style.color;
    context.fillText("0", left, top - 6);
    context.textAlign = "right";
    context.fillText(`column ${(shape[1] - 1).toLocaleString("en")}`, left + width, top - 6);
    context.fillText("row 0", left - 6, top + 12);
    context.fillText((shape[0] - 1).toLocaleString("en"), left - 6, top + height);
    borders(context, style.getPropertyValue("--ink"), { left, top, width, height });
    canvas.setAttribute("aria-label", `${title.textContent}: ${told.textContent}`);
    canvas.onmousemove = (event) => {
      const [i, j] = [Math.floor((event.offsetY - top) / h), Math.floor((event.offsetX - left) / w)];
      if (i < 0 || j < 0 || i >= rows || j >= columns) return hideTip();
      const end = (first, by, n) => Math.min(n, first + by) - 1;
      const [row, column] = [i * high, j * wide];
      showTip(
        event,
        `${name}: ${span("row", row, end(row, high, shape[0]))}, ${span("column", column, end(column, wide, shape[1]))}`,
        ...MEASURES.map((kind) => `${kind} ≈ ${digits(blocksOf(run, chosen, layer, kind).cells[i * columns + j], 2)}`),
        ...tokensIn(run, name, row, end(row, high, shape[0])),
      );
    };
    canvas.onmouseleave = hideTip;
  }

  // Lines between the heads, where columns or rows belong to heads.
  function borders(context, ink, { left, top, width, height }) {
    const heads = { W_Q: run.H, W_K: run.model.n_kv_head, W_V: run.model.n_kv_head, W_O: run.H }[chosen.name] ?? 1;
    context.fillStyle = ink;
    for (let head = 1; head < heads; head++)
      if (chosen.name === "W_O") context.fillRect(left, top + (head * height) / heads - 0.5, width, 1);
      else context.fillRect(left + (head * width) / heads - 0.5, top, 1, height);
  }

  return { element: el("div", { class: "matrices" }, boxes, hint, map, missing), draw };
}

/** A matrix of the run as blocks: how many rows and columns of them, of how many weights, and their numbers. */
export function blocksOf(run, { name, shape, layered }, layer, measure) {
  const at = layered ? layer : 0,
    kind = measure === "mean" ? 0 : 1;
  const [rows, columns] = run.arrays[`matrix:${name}`].shape.slice(2),
    scale = run.at(`matrix:${name}:scale`, at)[kind];
  return {
    rows,
    columns,
    high: Math.ceil(shape[0] / rows),
    wide: Math.ceil(shape[1] / columns),
    cells: Float32Array.from(run.at(`matrix:${name}`, at, kind), (q) => (q / 127) ** 3 * scale),
  };
}

// The colours of cells, and their key: means around 0, sizes from the smallest 3 of 100 to the largest 3.
function scaleOf(cells, measure) {
  if (measure === "mean") {
    const full = fullColour(cells);
    return { paint: (x) => colour("diverging", place(x, full)), key: scaleKey("diverging", digits(-full, 2), digits(full, 2)) };
  }
  const sizes = Float32Array.from(cells).sort(),
    low = sizes[Math.floor(0.03 * (sizes.length - 1))],
    high = sizes[Math.ceil(0.97 * (sizes.length - 1))];
  return {
    paint: (x) => colour("share", 0.04 + (0.96 * (x - low)) / Math.max(high - low, 1e-12)),
    key: scaleKey("share", digits(low, 2), digits(high, 2)),
  };
}

function span(what, first, last) {
  return first === last ? `${what} ${first.toLocaleString("en")}` : `${what}s ${first.toLocaleString("en")} to ${last.toLocaleString("en")}`;
}

// Which tokens of this text have their rows in a block of a table of tokens.
function tokensIn(run, name, first, last) {
  if (name !== "W_E" && name !== "W_U") return [];
  const ids = [...new Set(run.ids)].filter((id) => id >= first && id <= last).slice(0, 6);
  return ids.length ? [`of this text: ${ids.map((id) => `${quoted(run.word(id))} (${id})`).join(", ")}`] : [];
}
