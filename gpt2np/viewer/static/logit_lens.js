// The logit lens: what would be predicted at every point and position; the rank of one token through the layers.

import {
  absent,
  bar,
  colour,
  darkOn,
  digits,
  el,
  isPrinting,
  marked,
  percent,
  quoted,
  scaleKey,
  svg,
  tokenLabel,
} from "./drawing.js";

const COLUMNS = 48; // positions shown at once
const ON_PAPER = 5; // and in each block of a print, of which sheets hold two or three abreast

export function lensPanel(run, focus) {
  const element = el("div", { class: "lens" });
  if (!run.has("lens:id") || run.missing.lens) {
    element.append(absent(run, "lens", "The logit lens is"));
    return { id: "lens", title: "Logit lens", element, empty: true, draw() {} };
  }
  const n = run.at("lens:id", 0).length / run.at("lens:id", 0, 0).length,
    first = run.detail.firstLens;
  let between = false,
    chosenPoint = 2 * run.L, // follows the layer; a cell chooses both
    layerOfPoint = run.L - 1,
    shownFirst = 0; // the position of the table's first column
  const told = el("p", { class: "answer" }),
    table = el("table", {}),
    scroll = el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "predictions by layer and position", onscroll: sayWhatIsBeside },
      table,
    );
  const aside = (side) =>
    el("button", { type: "button", class: "link", "aria-label": side < 0 ? "scroll to earlier positions" : "scroll to later positions", onclick: () => scroll.scrollBy({ left: 0.7 * side * scroll.clientWidth, behavior: "smooth" }) });
  const before = aside(-1),
    after = aside(1),
    beside = el("p", { class: "beside-table on-screen" }, before, after);
  const side = el("div", { class: "lists" }),
    chart = el("div", { class: "chart" });
  const box = el("input", {
    type: "checkbox",
    onchange: (event) => {
      between = event.target.checked;
      draw(focus.state);
    },
  });
  const key = el("span", {});
  element.append(
    el(
      "p",
      { class: "intro how" },
      `The final ${run.model.norm} and the unembedding, applied to the stream at every point: what the model would say ` +
        "if it stopped there. The colour is the probability of that word. ",
      key,
    ),
    told,
    el("label", { class: "small on-screen" }, box, " also between attention and MLP"),
    beside,
    el("div", { class: "table-and-details" }, scroll, side),
  );

  function draw(state) {
    const pos = Math.max(state.pos, first),
      row = pos - first;
    if (state.layer !== layerOfPoint) choosePoint(2 * state.layer + 2, state.layer);
    const start = Math.min(Math.max(0, row - COLUMNS + 4), Math.max(0, n - COLUMNS)),
      count = Math.min(n, COLUMNS);
    told.replaceChildren(...answer(pos, row));
    box.disabled = Boolean(run.missing.follow); // a live page computes what is between last
    key.replaceChildren(scaleKey("chance", "0 %", "25 %", "100 %"), el("small", {}, " by the square root"));
    if (isPrinting()) {
      const blocks = Array.from({ length: Math.ceil(n / ON_PAPER) }, (_, i) =>
        el("table", { class: "block" }, rowsOf(i * ON_PAPER, Math.min(ON_PAPER, n - i * ON_PAPER), pos)),
      );
      scroll.replaceChildren(...blocks);
    } else {
      table.replaceChildren(...rowsOf(start, count, pos));
      scroll.replaceChildren(table);
    }
    const chosen = table.querySelector("td.chosen");
    shownFirst = first + start;
    if (chosen)
      scroll.scrollLeft = Math.max(0, chosen.offsetLeft - scroll.clientWidth + chosen.offsetWidth + 90);
    sayWhatIsBeside();
    details(pos, row, state);
  }

  function choosePoint(point, layer) {
    chosenPoint = point;
    layerOfPoint = layer;
  }

  /** What a table that is wider than its place has on either side, and of long texts what it does not have. */
  function sayWhatIsBeside() {
    const names = [...table.querySelectorAll("thead th")].slice(1);
    if (!names.length || !scroll.clientWidth) return;
    const hidden = (box) => Math.max(0, Math.min(names.length, Math.round(box / names[0].offsetWidth)));
    const left = hidden(scroll.scrollLeft),
      right = hidden(scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft);
    const last = shownFirst + names.length - 1;
    const all = names.length < run.T - first ? `; of ${run.T} positions ${shownFirst} to ${last} are here, choose another to see those around it` : "";
    before.textContent = left ? `← ${left} more${all}` : all.slice(2);
    after.textContent = right ? `${right} more →` : "";
    for (const button of [before, after]) button.hidden = !button.textContent;
    beside.hidden = !left && !right && !all;
  }

  /** Head and body of the table: so many columns from a row of the page's arrays on. */
  function rowsOf(start, count, pos) {
    const points = Array.from({ length: 2 * run.L + 1 }, (_, i) => i).filter(
      (point) => between || point % 2 === 0,
    );
    const tokens = Array.from({ length: count }, (_, i) => first + start + i);
    const head = el(
      "tr",
      {},
      el("th", { scope: "col" }, "after"),
      tokens.map((t) =>
        el("th", { scope: "col", class: `${t === pos ? "chosen" : ""} ${run.marks?.isNew(t) ? "changed" : ""}` }, tokenLabel(run.labels[t], 10)),
      ),
    );
    const body = points.map((point) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, pointLabel(point)),
        tokens.map((_, i) => cell(point, start + i, pos)),
      ),
    );
    return [el("thead", {}, head), el("tbody", {}, body)];
  }

  function cell(point, row, pos) {
    const id = run.at("lens:id", point, row)[0],
      p = run.at("lens:p", point, row)[0],
      t = Math.sqrt(p),
      here = row + first === pos;
    const button = el(
      "button",
      {
        type: "button",
        tabindex: here ? "0" : "-1",
        class: darkOn("chance", t) ? "light-ink" : "dark-ink",
        "aria-pressed": String(here && point === chosenPoint),
        "aria-label": `${pointLabel(point)}, position ${row + first}: ${quoted(run.word(id))} ${percent(p)}`,
        title: percent(p),
        onclick: () => {
          const layer = point ? (point - 1) >> 1 : focus.state.layer;
          choosePoint(point, layer);
          focus.set({ pos: row + first, layer });
          draw(focus.state);
        },
      },
      tokenLabel(run.word(id), isPrinting() ? 7 : 9),
    );
    button.style.background = colour("chance", t);
    return el("td", { class: here ? "chosen" : "" }, marked(button, run.marks?.first(point, row + first)));
  }

  // The sentence that a reader looks for: from where on is the final word the first choice?
  function answer(pos, row) {
    const tops = Array.from({ length: run.L }, (_, layer) => run.at("lens:id", 2 * layer + 2, row)[0]),
      final = tops[run.L - 1];
    const earliest = tops.indexOf(final);
    let stays = run.L - 1;
    while (stays > 0 && tops[stays - 1] === final) stays--;
    const said = [
      "At ",
      tokenLabel(run.labels[pos]),
      ` (${pos}) the model says `,
      tokenLabel(run.word(final)),
      `. First predicted after layer ${earliest}`,
    ];
    return [
      ...said,
      stays === earliest
        ? earliest === run.L - 1
          ? ", the last."
          : ", and from there on always."
        : `, then given up, and for good from layer ${stays} on.`,
    ];
  }

  function details(pos, row, state) {
    if (!run.at("lens:id", 1, row)) return side.replaceChildren(el("p", { class: "absent" }, "Ranks are being computed."));
    const ids = run.at("lens:id", chosenPoint, row),
      chances = run.at("lens:p", chosenPoint, row);
    const followed = [...new Set(run.at("follow:id", row))],
      token = followed.includes(state.token) ? state.token : followed[0];
    side.replaceChildren(
      el(
        "div",
        {},
        el("h4", {}, `Likeliest after ${pointLabel(chosenPoint)}`),
        [...ids].map((id, i) =>
          bar(tokenLabel(run.word(id)), chances[i], percent(chances[i]), {
            kind: "chance",
            chosen: id === token,
            onclick: followed.includes(id) ? () => focus.set({ token: id }) : null,
            moved: run.marks?.lens(chosenPoint, pos, id, chances[i]),
          }),
        ),
        el(
          "p",
          { class: "small" },
          `Entropy ${digits(run.at("lens:entropy", chosenPoint)[row])} nats: how undecided it is, 0 where it is sure. Stopping here would lose ${digits(run.at("lens:kl", chosenPoint)[row])} nats against the final prediction.`,
        ),
      ),
      el("div", {}, chart, rankTable(row, token, run.at("follow:id", row).indexOf(token))),
    );
    chart.replaceChildren(rankPath(row, token, run.at("follow:id", row).indexOf(token), pos));
  }

  function rankTable(row, token, i) {
    const lines = Array.from({ length: run.L + 1 }, (_, layer) => {
      const point = 2 * layer;
      return el(
        "tr",
        {},
        el("th", { scope: "row" }, pointLabel(point)),
        el("td", {}, String(run.at("follow:rank", point, row)[i] + 1)),
        el("td", {}, percent(run.at("follow:p", point, row)[i])),
      );
    });
    return el(
      "div",
      {},
      el(
        "table",
        { class: "plain" },
        el(
          "thead",
          {},
          el("tr", {}, el("th", {}, "after"), el("th", {}, "rank"), el("th", {}, "probability")),
        ),
        el("tbody", {}, lines),
      ),
    );
  }

  // Rank on a logarithmic scale, 1 at the top.
  function rankPath(row, token, i, pos) {
    const points = 2 * run.L + 1,
      width = Math.max(320, Math.min(720, chart.clientWidth)),
      height = 190,
      left = 56,
      top = 16,
      bottom = 34,
      right = 28;
    const ranks = Array.from({ length: points }, (_, point) => run.at("follow:rank", point, row)[i] + 1),
      before = run.marks?.ranks(pos, token)?.map((rank) => rank + 1) ?? null,
      most = Math.max(10, ...ranks, ...(before ?? []));
    const line = (some) => some.map((rank, point) => `${x(point)},${y(rank)}`).join(" ");
    const x = (point) => left + (point * (width - left - right)) / Math.max(1, points - 1);
    const y = (rank) => top + (Math.log10(rank) / Math.log10(most)) * (height - top - bottom);
    const roomy = x(1) - x(0) >= 50, // for a name below each point
      under = (point, name) => svg("text", { x: x(point), y: height - 12, "text-anchor": "middle" }, name);
    const parts = [];
    for (let rank = 1; rank <= most; rank *= 10) {
      parts.push(
        svg("line", { x1: left, x2: width - right, y1: y(rank), y2: y(rank), class: "rule" }),
        svg("text", { x: left - 8, y: y(rank) + 4, "text-anchor": "end" }, rank.toLocaleString("en")),
      );
    }
    const every = Math.ceil(run.L / 12);
    for (let layer = 0; layer < run.L; layer += every)
      parts.push(
        ...(roomy ? [under(2 * layer + 1, `attn ${layer}`)] : []),
        under(2 * layer + 2, roomy ? `layer ${layer}` : String(layer)),
      );
    parts.push(under(0, "embed"));
    if (before) parts.push(svg("polyline", { points: line(before), class: "path before" }, svg("title", {}, `before: ${before.join(", ")}`)));
    parts.push(svg("polyline", { points: line(ranks), class: "path" }));
    ranks.forEach((rank, point) =>
      parts.push(
        svg(
          "circle",
          {
            cx: x(point),
            cy: y(rank),
            r: (point === chosenPoint ? 5.5 : 4) - (point % 2 ? 1.6 : 0),
            class: point === chosenPoint ? "dot chosen" : "dot",
          },
          svg("title", {}, `after ${pointLabel(point)}, ${run.pointName(point)}: rank ${rank}`),
        ),
      ),
    );
    return el(
      "figure",
      {},
      el(
        "figcaption",
        {},
        "Rank of ",
        tokenLabel(run.word(token)),
        ` to follow position ${pos} (1 is the likeliest), after each layer and, small dots, between its attention (attn) and MLP`,
      ),
      svg(
        "svg",
        { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `ranks ${ranks.join(", ")}` },
        parts,
      ),
    );
  }

  function pointLabel(point) {
    return point === 0
      ? "embedding"
      : point % 2
        ? `attention ${(point - 1) >> 1}`
        : `layer ${(point - 1) >> 1}`;
  }
  return { id: "lens", title: "Logit lens", element, draw };
}
