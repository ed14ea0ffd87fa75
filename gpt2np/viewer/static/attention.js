// Attention: one head's pattern, all heads of the layer small beside it, and who looks at whom in words.

import { headFinder } from "./head_grid.js";
import { everyHead } from "./every_head.js";
import {
  absent,
  bar,
  canvasFont,
  colour,
  directionOf,
  darkOn,
  el,
  hideTip,
  isPrinting,
  marked,
  marker,
  paperRoom,
  place,
  quoted,
  scaleKey,
  shortened,
  showTip,
  sized,
  tokenLabel,
  visible,
  wholePercent,
} from "./drawing.js";
import { positionWindow } from "./position_window.js";
import { shadedText } from "./shaded_text.js";

const MOST = 96; // queries and keys that one picture shows; of longer texts a window around the position

export function attentionPanel(run, focus) {
  const element = el("div", { class: "attention" });
  if (!run.has("pattern") && !run.has("pattern:key")) {
    element.append(absent(run, "attention", "Attention is"));
    return { id: "attention", title: "Attention", element, empty: true, draw() {} };
  }
  let scores = false,
    hovered = null;
  const title = el("h3", {}),
    says = el("p", { class: "says-where" }),
    big = el("canvas", { role: "img" }),
    rowsOf = el("div", { class: "lists" });
  const many = el("div", { class: "multiples" }),
    text = el("p", { class: "shaded-text", dir: directionOf(run.text) }),
    textTitle = el("h4", {});
  const toggle = ["pattern", "scores"].map((kind) =>
    el(
      "button",
      {
        type: "button",
        "aria-pressed": String(kind === "pattern"),
        disabled: kind === "scores" && !run.has("scores"),
        title: kind === "scores" && !run.has("scores") ? "left out to keep the page small" : null,
        onclick: (event) => {
          scores = kind === "scores";
          for (const b of toggle) b.setAttribute("aria-pressed", String(b === event.currentTarget));
          focus.told(new Set()); // the caption too is drawn anew
        },
      },
      kind,
    ),
  );
  const finder = headFinder(run, focus),
    every = everyHead(run, focus);
  const stretch = positionWindow(run, () => draw(focus.state));
  const key = el("p", { class: "picture-key" });
  element.append(
    el(
      "p",
      { class: "intro how" },
      "Every row is one token looking back: the colour of a square says which share of its attention goes to the " +
        "token of that column. A row adds up to 100 %. ",
      el("span", { class: "on-screen" }, "Point at a token to see where it looks and who looks at it."),
    ),
    el(
      "div",
      { class: "two" },
      el(
        "div",
        { class: "picture" },
        el(
          "div",
          { class: "row-head" },
          title,
          el("div", { class: "toggle", role: "group", "aria-label": "pattern or scores" }, toggle),
        ),
        stretch.element,
        big,
        key,
        says,
      ),
      el("div", {}, rowsOf, textTitle, text, el("h3", { class: "many-title" }), many),
    ),
    every.element,
    finder.element,
  );

  function windowOf(pos) {
    const count = Math.min(run.T, MOST);
    return { first: stretch.begin(count, pos - Math.floor(count * 0.75)), count };
  }

  /** The key of a column: where the window begins later, the first column is the first token, where heads rest. */
  function keyAt(column, first) {
    return column === 0 && first > 0 ? 0 : first + column;
  }

  function draw(state) {
    const { layer, head, pos } = state;
    const reach = run.reach(layer);
    title.textContent = `Layer ${layer}, head ${head}${reach ? ` (${reach})` : ""}`;
    element.querySelector(".many-title").textContent = `All heads of ${run.layerName(layer)}`;
    key.replaceChildren(
      scores ? scaleKey("diverging", "low score", "high") : scaleKey("share", "0 %", "25 %", "100 %"),
      el("small", {}, scores ? " full colour: this head’s largest score" : " share of attention, by the square root"),
    );
    stretch.follow(pos, MOST);
    const { first, count } = windowOf(pos);
    const also = first ? "; the first column is the first token" : "";
    stretch.tell(`Positions ${first} to ${first + count - 1} of ${run.T}${also}.`, first, count);
    picture(state);
    words(state);
    multiples(layer, head, pos);
    every.draw(state);
    finder.draw(state);
  }

  // A square for each query and key that it sees; where there is room, with its share in percent.
  function squaresOf(context, { first, count, left, top, cell }, layer, head) {
    const full = scores ? scoreRange(layer, head, first, count) : 1,
      scale = scores ? "diverging" : "share",
      gap = cell > 6 ? 1 : 0;
    context.textAlign = "center";
    context.font = canvasFont(cell >= 64 ? 0.9 : 0.75);
    const mark = marker(context);
    for (let q = first; q < first + count; q++) {
      const values = scores ? run.scores(layer, head, q) : run.weights(layer, head, q),
        moved = run.marks?.lookedAt(layer, head, q);
      for (let column = 0; column <= q - first; column++) {
        const k = keyAt(column, first);
        if (k < run.firstSeen(layer, q)) continue;
        const t = scores ? place(values[k], full) : Math.sqrt(values[k]),
          [x, y] = [left + column * cell, top + (q - first) * cell];
        context.fillStyle = colour(scale, t);
        context.fillRect(x, y, cell - gap, cell - gap);
        if (moved?.[k]) mark(x + cell - gap, y, Math.min(12, cell / 2));
        if (cell < 28) continue;
        context.fillStyle = darkOn(scale, t) ? "#fff" : "#000";
        const number = scores ? values[k].toFixed(1).replace("-", "−") : wholePercent(values[k], "");
        context.fillText(number, x + cell / 2, y + cell / 2 + 5);
      }
    }
  }

  // Names or numbers of the queries and keys, and which side is which.
  function sides(context, { first, count, left, top, cell, named, room }, pos, style) {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
    const every = Math.ceil((14 * count) / room / 2.5) * 5;
    context.font = canvasFont(0.75);
    for (let i = 0; i < count; i++) {
      const query = first + i,
        key = keyAt(i, first),
        label = (t) => (named ? shortened(visible(run.labels[t]), 12) : String(t)),
        inked = (t) => (t === pos ? style.getPropertyValue("--accent") : style.color);
      context.fillStyle = inked(query);
      context.textAlign = "right";
      if (named || query % every === 0) context.fillText(label(query), left - 6, top + (i + 0.5) * cell + 4);
      if (!named && (key % every || (first && i && i * cell < 28 * rem))) continue; // beside the first token's
      context.fillStyle = inked(key);
      context.save();
      context.translate(left + (i + 0.5) * cell + 3, top - 6);
      context.rotate(named ? -Math.PI / 3.5 : 0);
      context.textAlign = named ? "left" : "center";
      context.fillText(label(key), 0, 0);
      context.restore();
    }
    context.fillStyle = style.getPropertyValue("--soft");
    context.textAlign = "left";
    context.fillText(named ? "query ↓ key →" : "query ↓  key →", 0, 12);
  }

  // Rows are queries (who looks), columns keys (at what). The chosen position is framed.
  function picture({ layer, head, pos }) {
    const { first, count } = windowOf(pos),
      room = Math.max(220, Math.min(big.parentElement.clientWidth, isPrinting() ? paperRoom() : Math.max(620, innerHeight - 140)));
    const style = getComputedStyle(element),
      rem = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16,
      named = count <= 40 && (room - 136 * rem) / count >= 11,
      left = (named ? 92 : 40) * rem,
      top = (named ? 84 : 42) * rem,
      cell = Math.min(96, (room - left - 44) / count),
      side = cell * count,
      frame = { first, count, left, top, cell, side, named, room };
    const context = sized(big, left + side + 44, top + side + 2);
    big.setAttribute(
      "aria-label",
      `Attention ${scores ? "scores" : "pattern"} of layer ${layer} head ${head}: rows look at columns. ${sentence(layer, head, pos)}`,
    );
    context.fillStyle = style.getPropertyValue("--wash");
    context.fillRect(left, top, side, side);
    squaresOf(context, frame, layer, head);
    sides(context, frame, pos, style);
    context.strokeStyle = style.getPropertyValue("--accent");
    context.lineWidth = 2;
    if (pos >= first && pos < first + count)
      context.strokeRect(left, top + (pos - first) * cell, (pos - first + 1) * cell, cell);
    big.onmousemove = (event) => {
      const q = first + Math.floor((event.offsetY - top) / cell),
        k = keyAt(Math.floor((event.offsetX - left) / cell), first);
      const inside = q >= first && q < first + count && k >= 0 && k <= q;
      if (inside)
        showTip(
          event,
          `${quoted(run.labels[q])} (${q}) ${run.sees(layer, q, k) ? "looks at" : "does not see"} ${quoted(run.labels[k])} (${k})`,
          valueText(layer, head, q, k),
        );
      else hideTip();
      const over = inside
        ? q
        : event.offsetX < left && q >= first && q < first + count
          ? q
          : event.offsetY < top && k >= first && k < first + count
            ? k
            : null;
      if (over !== hovered) {
        hovered = over;
        words(focus.state);
      }
    };
    big.onmouseleave = () => {
      hideTip();
      hovered = null;
      words(focus.state);
    };
    big.onclick = (event) => {
      const q = first + Math.floor((event.offsetY - top) / cell);
      if (q >= first && q < first + count) focus.set({ pos: q });
    };
  }

  function scoreRange(layer, head, first, count) {
    let most = 1e-6;
    for (let q = first; q < first + count; q++)
      for (const s of run.scores(layer, head, q)) if (Number.isFinite(s)) most = Math.max(most, Math.abs(s));
    return most;
  }

  function notSeen(layer) {
    const n = run.model.windows[layer];
    return `this layer is ${run.model.kinds[0]}: a query sees ${n} ${n === 1 ? "key" : "keys"}, its own included`;
  }

  function valueText(layer, head, q, k) {
    const score = run.scores(layer, head, q);
    if (!run.sees(layer, q, k)) return notSeen(layer);
    return `attention ${run.weightText(run.weights(layer, head, q)[k])}${score ? `, score ${score[k].toFixed(2).replace("-", "−")}` : ""}`;
  }

  function sentence(layer, head, pos) {
    const weights = run.weights(layer, head, pos),
      best = Math.max(0, weights.indexOf(Math.max(...weights)));
    return `From ${quoted(run.labels[pos])} (${pos}) it looks most at ${quoted(run.labels[best])} (${best}): ${run.weightText(weights[best])}.`;
  }

  // Where the position under the pointer (or else the chosen one) looks, and who looks at it.
  function words({ layer, head, pos }) {
    const at = hovered ?? pos,
      weights = run.weights(layer, head, at);
    says.textContent = sentence(layer, head, at);
    const seenFrom = run.firstSeen(layer, at);
    const looks = [...weights.keys()].slice(seenFrom).sort((a, b) => weights[b] - weights[a]).slice(0, 8),
      seen = [];
    for (let q = at; q < run.T && run.firstSeen(layer, q) <= at; q++)
      seen.push([q, run.weights(layer, head, q)[at]]);
    seen.sort((a, b) => b[1] - a[1]);
    const list = (heading, pairs, moved) =>
      el(
        "div",
        {},
        el("h4", {}, heading),
        pairs.map(([t, w]) =>
          bar([tokenLabel(run.labels[t], 14), el("small", {}, ` ${t}`)], w, run.weightText(w), {
            kind: "share",
            onclick: () => focus.set({ pos: t }),
            moved: moved(t),
          }),
        ),
      );
    rowsOf.replaceChildren(
      list(
        [tokenLabel(run.labels[at]), ` (${at}) looks at`],
        looks.map((k) => [k, weights[k]]),
        (key) => run.marks?.lookedAt(layer, head, at)?.[key],
      ),
      list([tokenLabel(run.labels[at]), ` (${at}) is looked at by`], seen.slice(0, 8), (query) => run.marks?.lookedAt(layer, head, query)?.[at]),
    );
    const { first, count } = windowOf(pos);
    const shareOf = (t) => (run.sees(layer, at, t) ? weights[t] : null);
    const told = (t) => (run.sees(layer, at, t) ? `: ${run.weightText(weights[t])}` : "");
    textTitle.replaceChildren("The text, underlined by the share that ", tokenLabel(run.labels[at]), ` (${at}) gives`);
    text.replaceChildren(...shadedText(run, { first, count, at, shareOf, told }));
  }

  // Every head of the layer as a small square; a button each.
  const squares = Array.from({ length: run.H }, (_, head) => {
    const canvas = el("canvas", { "aria-hidden": "true" });
    const button = el(
      "button",
      { class: "small-head", type: "button", "data-head-square": head, onclick: () => focus.set({ head }) },
      canvas,
      el("span", {}, `head ${head}`),
      run.model.n_kv_head < run.H ? el("small", {}, ` group ${run.group(head)}`) : null,
    );
    many.append(button);
    return { canvas, button };
  });
  function multiples(layer, chosen, pos) {
    const { first, count } = windowOf(pos),
      side = 104,
      cell = side / count;
    squares.forEach(({ canvas, button }, head) => {
      const context = sized(canvas, side, side);
      for (let q = first; q < first + count; q++) {
        const weights = run.weights(layer, head, q);
        for (let k = Math.max(first, run.firstSeen(layer, q)); k <= q; k++) {
          context.fillStyle = colour("share", Math.sqrt(weights[k]));
          context.fillRect((k - first) * cell, (q - first) * cell, cell + 0.3, cell + 0.3);
        }
      }
      button.setAttribute("aria-pressed", String(head === chosen));
      marked(button, run.marks?.head(layer, head));
      button.setAttribute("aria-label", `head ${head}. ${sentence(layer, head, pos)}`);
    });
  }
  return { id: "attention", title: "Attention", element, draw };
}
