// Contributions: what every part adds to one logit. They add up to it exactly, but for rounding.

import {
  absent,
  bar,
  colour,
  darkOn,
  el,
  fullColour,
  hideTip,
  marked,
  place,
  scaleKey,
  showTip,
  signed,
  tokenLabel,
} from "./drawing.js";
import { pathsTo } from "./head_paths.js";
import { targetButtons } from "./target_choice.js";

const LISTED = 10;

/** Parts of no layer, in words. */
export const OUTSIDE_LAYERS = { wte: "token embedding", wpe: "position embedding", embed: "embedding", "ln_f.bias": "final LayerNorm bias" };

export function contributionsPanel(run, focus) {
  const element = el("div", { class: "contributions" });
  if (!run.has("push")) {
    element.append(absent(run, "push", "The contributions are"));
    return { id: "contributions", title: "Contributions", element, empty: true, draw() {} };
  }
  let target = 0;
  const names = run.components,
    first = run.detail.firstLens;
  const choose = el("div", { class: "toggle wrap", role: "group", "aria-label": "token" }),
    told = el("p", { class: "answer" });
  const lists = el("div", { class: "lists" }),
    grid = el("div", { class: "grid components" }),
    others = el("p", { class: "rest" }),
    paths = el("div", { class: "paths" });
  element.append(
    el(
      "p",
      { class: "intro" },
      `The final vector is a sum of what embeddings, heads and MLPs wrote. Held against one token’s unembedding, with the scale of the last ${run.model.norm} as it was, each part gives a number: how much it pushes that token’s logit up or down${run.model.capped ? ", before the cap on it" : ""}.`,
    ),
    choose,
    told,
    lists,
    el("div", { class: "two" }, el("div", {}, el("h3", {}, "All parts, layer by layer"), grid, others), paths),
  );

  function draw(state) {
    const row = Math.max(0, state.pos - first),
      ids = [...run.at("push:id", row)],
      pairs = ids.length > 1 ? [...ids.keys(), "difference"] : [0];
    if (!pairs.includes(target)) target = 0;
    choose.replaceChildren(
      ...targetButtons(run, row + first, ids, pairs, target, (chosen) => {
        target = chosen;
        focus.told(new Set()); // captions name it
      }),
    );
    const values = valuesOf(row),
      sum = values.reduce((a, b) => a + b, 0),
      order = [...values.keys()].sort((a, b) => values[b] - values[a]);
    const most = Math.max(...values.map(Math.abs)),
      moved = movedParts(row, ids, values, most),
      best = order[0];
    told.replaceChildren(
      "At ",
      tokenLabel(run.labels[row + first]),
      ` (${row + first}): `,
      strong(label(best)),
      " pushes ",
      ...named(ids),
      ` most, by ${signed(values[best])}${bestHead(order, values)}. All ${values.length} parts add up to ${target === "difference" ? "the difference of the logits" : "the logit"}${run.model.capped ? " before the cap" : ""}: ${signed(sum)}.`,
    );
    const list = (heading, which) =>
      el(
        "div",
        {},
        el("h4", {}, heading),
        which.map((i) =>
          bar(label(i), values[i] / most, signed(values[i]), { kind: "push", onclick: () => go(i), moved: moved?.[i] }),
        ),
      );
    lists.replaceChildren(
      list("Up", order.filter((i) => values[i] > 0).slice(0, LISTED)),
      list(
        "Down",
        order
          .reverse()
          .filter((i) => values[i] < 0)
          .slice(0, LISTED),
      ),
    );
    table(values, moved);
    paths.replaceChildren(...(target === "difference" ? [] : pathsTo(run, row + first, target, label, (head) => focus.set(head))));
    paths.hidden = !paths.children.length; // and its caption with it
  }

  function named(ids) {
    return target === "difference"
      ? [tokenLabel(run.word(ids[0])), " over ", tokenLabel(run.word(ids[1]))]
      : [tokenLabel(run.word(ids[target]))];
  }

  function valuesOf(row) {
    if (target !== "difference") return Array.from(run.at("push", row, target));
    const [a, b] = [run.at("push", row, 0), run.at("push", row, 1)];
    return Array.from(a, (x, i) => x - b[i]);
  }

  /** Of each part, whether its push has moved; null where the token was not among those that were pushed before. */
  function movedParts(row, ids, values, most) {
    const of = (id) => run.marks?.pushes(row + first, id) ?? null,
      [a, b] = target === "difference" ? [of(ids[0]), of(ids[1])] : [of(ids[target]), null];
    if (!a || (target === "difference" && !b)) return null;
    return values.map((value, i) => run.marks.number(b ? a[i] - b[i] : a[i], value, most));
  }

  // Layers down; heads, bias and MLP across. Above them the embeddings, below ln_f's bias.
  function table(values, moved) {
    const full = Math.max(fullColour(values), Math.max(...values.map(Math.abs)) * 0.5),
      cells = [];
    const of = new Map(names.map((name, i) => [name, i])),
      columns = [
        ...Array.from({ length: run.H }, (_, h) => [`attn.head.${h}`, String(h)]),
        ["attn.bias", "bias"],
        ["mlp", "MLP"],
      ].filter(([column]) => names.includes(`h.0.${column}`));
    grid.style.setProperty("--columns", columns.length);
    grid.classList.toggle("many", run.H > 12); // no numbers in the cells
    cells.push(
      el("span", { class: "side" }, "head"),
      ...columns.map(([, name]) => el("span", { class: "over" }, name)),
    );
    for (let layer = 0; layer < run.L; layer++) {
      cells.push(el("span", { class: "side" }, `layer ${layer}`));
      for (const [name] of columns) cells.push(square(of.get(`h.${layer}.${name}`), values, full, moved));
    }
    cells.push(
      el("span", { class: "grid-key" }, scaleKey("diverging", signed(-full, 1), signed(full, 1)), el("small", {}, " logits")),
    );
    const rest = names
      .map((name, i) => [name, i])
      .filter(([name]) => !/^h\.\d+\.(attn\.(head\.\d+|bias)|mlp)$/.test(name));
    grid.replaceChildren(...cells);
    others.replaceChildren(
      ...rest.flatMap(([name, i]) => [
        marked(el("span", { class: "one" }, `${label(i)} `, el("b", {}, signed(values[i]))), moved?.[i]),
        " ",
      ]),
    );
  }

  function square(i, values, full, moved) {
    if (i === undefined) return el("span", {});
    const t = place(values[i], full),
      cell = el(
        "button",
        {
          type: "button",
          class: darkOn("diverging", t) ? "light-ink" : "dark-ink",
          "aria-label": `${label(i)}: ${signed(values[i])}`,
          onclick: () => go(i),
          onmousemove: (event) => showTip(event, label(i), signed(values[i], 3)),
          onmouseleave: hideTip,
        },
        run.H <= 12 ? signed(values[i], 1) : "",
      );
    cell.style.background = colour("diverging", t);
    return marked(cell, moved?.[i]);
  }

  function go(i) {
    const [, layer, head] = names[i].match(/^h\.(\d+)\.attn\.head\.(\d+)$/) ?? [];
    if (head !== undefined)
      return focus.set({ layer: Number(layer), head: Number(head), part: "attn.heads" });
    const mlp = names[i].match(/^h\.(\d+)\.mlp$/);
    if (mlp) focus.set({ layer: Number(mlp[1]), part: "mlp.out" });
  }

  function label(i) {
    const name = names[i],
      head = name.match(/^h\.(\d+)\.attn\.head\.(\d+)$/),
      part = name.match(/^h\.(\d+)\.(mlp|attn\.bias)$/);
    if (head) return `layer ${head[1]} head ${head[2]}`;
    if (part) return `layer ${part[1]} ${part[2] === "mlp" ? "MLP" : "attention bias"}`;
    return OUTSIDE_LAYERS[name] ?? name;
  }
  /** The head that pushes most, where another part is before it. */
  function bestHead(order, values) {
    const head = order.find((i) => names[i].includes(".head."));
    return head === undefined || head === order[0] || values[head] <= 0 ? "" : `, of the heads ${label(head)}, by ${signed(values[head])}`;
  }

  function strong(text) {
    return el("strong", {}, text);
  }
  return { id: "contributions", title: "Contributions", element, draw };
}
