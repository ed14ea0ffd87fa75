// The MLP: which neurons fire at a position, on the curve that decides it, and how few they are.

import { absent, bar, digits, el, percent, signed, svg, tokenLabel } from "./drawing.js";
import { neuronPushes } from "./neuron_pushes.js";

/** GELU in the tanh form that GPT-2 has. */
export function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

const CURVES = { relu: (x) => Math.max(0, x), silu: (x) => x / (1 + Math.exp(-x)), tanh: Math.tanh };

export function mlpPanel(run, focus) {
  const curved = CURVES[run.model.activation] ?? gelu,
    bend = run.model.activation.startsWith("gelu") ? "GELU" : run.model.activation,
    gated = run.has("neuron:act"); // an MLP whose neurons have a gate, and something that passes it
  const element = el("div", { class: "mlp" });
  if (!run.has("neuron:id")) {
    element.append(absent(run, "mlp", "The MLP’s neurons are"));
    return { id: "mlp", title: "MLP", element, empty: true, draw() {} };
  }
  const told = el("p", { class: "answer" }),
    curve = el("div", { class: "chart" }),
    lists = el("div", { class: "lists" }),
    more = el("div", { class: "neuron" }),
    pushes = neuronPushes(run, focus),
    quiet = el("div", { class: "quiet" });
  element.append(
    el(
      "p",
      { class: "intro" },
      gated
        ? `Every neuron reads two directions of the stream: one opens its gate, by ${bend}, the other is what passes it (“up”). Gate times up says how strongly it writes its own direction back, and with which sign; the lists have the largest.`
        : `Every neuron reads one direction of the stream. ${bend} decides whether it fires, and if it does it writes its own direction back.`,
    ),
    told,
    el("div", { class: "two" }, curve, lists),
    more,
    pushes.element,
    el("h3", {}, "How many are active"),
    quiet,
  );
  const sparsity = Array.from({ length: run.L }, (_, layer) => run.at("sparsity", layer));
  quiet.append(
    ...sparsity.map(([near, positive], layer) =>
      bar(`layer ${layer}`, positive, `${percent(positive)} above 0.01, ${percent(near)} silent`, {
        kind: "share",
      }),
    ),
    el(
      "p",
      { class: "small" },
      "Of all neurons at all positions: those whose activation is above 0.01, and those within 0.01 of 0." +
        (gated ? " The rest are negative." : bend === "relu" ? "" : ` The rest are slightly negative, which ${bend} lets through.`),
    ),
  );

  function draw(state) {
    const { layer } = state,
      pos = Math.max(state.pos, run.detail.first),
      row = pos - run.detail.first;
    const ids = [...run.at("neuron:id", layer, row)],
      pre = run.at("neuron:pre", layer, row),
      post = run.at("neuron:post", layer, row);
    const layers = run.at("active:layer", row),
      active = run.at("active:id", row),
      strength = run.at("active:post", row);
    const opened = gated ? run.at("neuron:act", layer, row) : post; // what the curve makes of `pre`
    const howMuch = (i) =>
      gated
        ? `${digits(opened[i], 2)} × ${digits(post[i] / opened[i], 2)}`
        : beforeAfter(pre[i], post[i]);
    told.replaceChildren(
      "At ",
      tokenLabel(run.labels[pos]),
      ` (${pos}) the most active neuron of all layers is `,
      el("strong", {}, `layer ${layers[0]}, neuron ${active[0]}`),
      `: ${digits(strength[0], 4)}. In layer ${layer} it is `,
      el("strong", {}, `neuron ${ids[0]}`),
      `: ${digits(post[0], 4)}.`,
      ...pushesMost(run, pos),
    );
    lists.replaceChildren(
      el(
        "div",
        { class: "before-after" },
        el("h4", {}, gated ? `Layer ${layer}: ${bend}(gate) × up` : `Layer ${layer}: before → after ${bend}`),
        ids.slice(0, 12).map((id, i) =>
          bar(`neuron ${id}`, post[i] / Math.max(post[0], 1e-9), howMuch(i), {
            kind: "share",
            chosen: state.neuron === `${layer}.${id}`,
            onclick: () => focus.set({ neuron: `${layer}.${id}` }),
            moved: run.marks?.neuron(layer, pos, id, post[i], post[0]),
          }),
        ),
      ),
      el(
        "div",
        {},
        el("h4", {}, "All layers"),
        [...active].map((id, i) =>
          bar(
            `layer ${layers[i]} · ${id}`,
            strength[i] / Math.max(strength[0], 1e-9),
            digits(strength[i], 4),
            {
              kind: "share",
              chosen: state.neuron === `${layers[i]}.${id}`,
              onclick: () => focus.set({ layer: layers[i], neuron: `${layers[i]}.${id}` }),
              moved: run.marks?.neuron(layers[i], pos, id, strength[i], strength[0]),
            },
          ),
        ),
      ),
    );
    curve.replaceChildren(picture(layer, row, ids, pre, opened, state, pos));
    one(state);
    pushes.draw(state);
  }

  // The curve, how many neurons lie where before it, and the most active ones on it.
  function picture(layer, row, ids, pre, post, state, pos) {
    const bins = run.at("neuron:bins", layer, row),
      reach = run.detail.reach,
      most = Math.max(reach, Math.max(...pre) * 1.05),
      highest = Math.max(2, Math.max(...post) * 1.08);
    const width = 460,
      height = 330,
      left = 40,
      bottom = 44,
      top = 14,
      right = 48;
    const x = (v) => left + ((v + reach) / (most + reach)) * (width - left - right),
      y = (v) => height - bottom - ((v + 0.4) / (highest + 0.4)) * (height - bottom - top);
    const parts = [],
      tallest = Math.max(...bins),
      step = (2 * reach) / bins.length,
      rise = (n) => Math.sqrt(n / tallest) * (height - bottom - top) * 0.55;
    bins.forEach((n, i) => {
      if (n) {
        const tall = rise(n);
        parts.push(
          svg(
            "rect",
            {
              x: x(-reach + i * step),
              y: height - bottom - tall,
              width: Math.max(1, x(step) - x(0) - 1),
              height: tall,
              class: "bin",
            },
            svg(
              "title",
              {},
              `${n} neurons before ${bend} from ${(-reach + i * step).toFixed(2)} to ${(-reach + (i + 1) * step).toFixed(2)}`,
            ),
          ),
        );
      }
    });
    parts.push(
      svg("line", { x1: left, x2: width - right, y1: y(0), y2: y(0), class: "rule" }),
      svg("line", { x1: x(0), x2: x(0), y1: top, y2: height - bottom, class: "rule" }),
    );
    const line = Array.from({ length: 121 }, (_, i) => -reach + (i / 120) * (most + reach))
      .filter((v) => curved(v) <= highest)
      .map((v) => `${x(v)},${y(curved(v))}`)
      .join(" ");
    parts.push(svg("polyline", { points: line, class: "path" }));
    ids.forEach((id, i) =>
      parts.push(
        svg(
          "circle",
          {
            cx: x(pre[i]),
            cy: y(post[i]),
            r: state.neuron === `${layer}.${id}` ? 7 : 4.5,
            class: state.neuron === `${layer}.${id}` ? "dot chosen" : "dot",
            onclick: () => focus.set({ neuron: `${layer}.${id}` }),
          },
          svg("title", {}, `neuron ${layer}.${id}: ${beforeAfter(pre[i], post[i])}`),
        ),
      ),
    );
    const ticks = (most + reach) / 6 > 3 ? 5 : 2;
    for (let v = -Math.floor(reach / ticks) * ticks; v <= most; v += ticks)
      parts.push(
        svg(
          "text",
          { x: x(v), y: height - bottom + 16, "text-anchor": "middle" },
          String(v).replace("-", "−"),
        ),
      );
    for (let v = 0; v <= highest; v += Math.max(1, Math.round(highest / 5)))
      parts.push(svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, String(v)));
    parts.push(
      svg(
        "text",
        { x: (left + width) / 2, y: height - 8, "text-anchor": "middle" },
        `before ${bend}, layer ${layer}`,
      ),
      svg("text", { x: left + 6, y: top + 4 }, `after ${bend}, layer ${layer}`),
      ...countScale(tallest, rise, width - right + 4, height - bottom),
    );
    return el(
      "figure",
      {},
      el(
        "figcaption",
        {},
        el("b", {}, `Layer ${layer}`),
        " at ",
        tokenLabel(run.labels[pos]),
        `: ${run.model.d_mlp.toLocaleString("en")} neurons on the ${bend} curve. Dots: the ${ids.length} most active. Bars: how many neurons have each value before ${bend} (right, square-root scale).`,
      ),
      svg(
        "svg",
        {
          viewBox: `0 0 ${width} ${height}`,
          role: "img",
          "aria-label": `the ${ids.length} most active neurons of layer ${layer} on the curve`,
        },
        parts,
      ),
    );
  }

  function one(state) {
    const found =
      (run.neurons ?? []).find(({ layer, id }) => `${layer}.${id}` === state.neuron) ?? run.neurons?.[0];
    if (!found) return more.replaceChildren();
    const most = Math.max(...found.active.map(Math.abs), 1e-9),
      shown =
        found.active.length > 60
          ? found.active
              .map((v, t) => [v, t])
              .sort((a, b) => b[0] - a[0])
              .slice(0, 24)
          : found.active.map((v, t) => [v, t]);
    more.replaceChildren(
      el("h3", {}, `Layer ${found.layer}, neuron ${found.id}`),
      ...(found.excited_by ? [meaningOf(found)] : []), // a model without a vocabulary has no words for it
      el("h4", {}, found.active.length > 60 ? "Where it is most active" : "How active at each token"),
      el(
        "div",
        { class: "columns" },
        shown.map(([v, t]) =>
          bar([tokenLabel(run.labels[t], 14), el("small", {}, ` ${t}`)], v / most, signed(v), {
            kind: "push",
            onclick: () => focus.set({ pos: t }),
            moved: run.marks?.neuron(found.layer, t, found.id, v, most),
          }),
        ),
      ),
    );
    if (state.neuron && `${found.layer}.${found.id}` !== state.neuron)
      more.prepend(
        el(
          "p",
          { class: "small" },
          `Neuron ${state.neuron} is not among those that this page explains (the most active at the last position); the first of these is shown.`,
        ),
      );
  }
  return { id: "mlp", title: "MLP", element, draw };
}

/** The neuron that raises the likeliest next token most, if that is known: seldom the most active one. */
function pushesMost(run, pos) {
  const row = pos - run.detail.firstLens;
  const [push] = run.has("pusher:push") && row >= 0 ? run.at("pusher:push", row, 0) : [];
  return push > 0
    ? [
        " What pushes ",
        tokenLabel(run.word(run.at("push:id", row)[0])),
        " up most is ",
        el("strong", {}, `layer ${run.at("pusher:layer", row, 0)[0]}, neuron ${run.at("pusher:id", row, 0)[0]}`),
        `: its logit by ${signed(push)}.`,
      ]
    : [];
}

/** "2.13 → 2.09", or of what the curve leaves as it is, as far as digits say: "5.39 → same". */
export function beforeAfter(before, after) {
  const [a, b] = [digits(before), digits(after)];
  return `${a} → ${a === b ? "same" : b}`;
}

// The scale of the bars, on the right of the chart: round numbers of neurons, none nearer than a line of text.
function countScale(tallest, rise, x, foot) {
  const parts = [
    svg("line", { x1: x, x2: x, y1: foot, y2: foot - rise(tallest), class: "tick" }),
    svg("text", { x, y: foot - rise(tallest) - 10, "text-anchor": "middle", class: "count" }, "neurons"),
  ];
  const round = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].filter((n) => n <= tallest);
  let above = Infinity;
  for (const n of [...round.reverse(), 0]) {
    if (above - rise(n) < 16) continue;
    above = rise(n);
    parts.push(
      svg("line", { x1: x, x2: x + 4, y1: foot - above, y2: foot - above, class: "tick" }),
      svg("text", { x: x + 8, y: foot - above + 4, class: "count" }, n.toLocaleString("en")),
    );
  }
  return parts;
}

// Which words a neuron reads and writes, by its weights.
function meaningOf(neuron) {
  const words = (list) => list.flatMap((word, i) => [i ? ", " : "", tokenLabel(word)]);
  const { excited_by: read, raises, lowers } = neuron;
  return el(
    "p",
    {},
    ["Responds to embeddings of ", ...words(read), ". Raises ", ...words(raises)],
    ["; lowers ", ...words(lowers), "."],
  );
}
