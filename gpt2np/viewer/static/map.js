// The map: one position's way through the model, every vector a strip of its real values.
// The chosen layer is drawn whole, the others as what they write and what they leave.

import { buildCard, stripText } from "./map_card.js";
import { everyPosition } from "./every_position.js";
import { bar, el, hideTip, marked, percent, quoted, scaleKey, showTip, sized, tokenLabel } from "./drawing.js";
import { CLOSED, OPEN, hasHeads, headUnder, heightOf, noteOf, paintRow, tipLines } from "./map_rows.js";
import { putOnPaper } from "./map_paper.js";
import { buildStreams } from "./map_streams.js";

const SOURCES = { wte: "token", wpe: "+ position" }; // rows that have another name than their site

export function mapPanel(run, focus) {
  const flow = el("div", { class: "flow" });
  const key = el("span", {});
  const card = buildCard(run, focus);
  const streams = buildStreams(run, focus, levels);
  const every = everyPosition(run, focus);
  const element = el(
    "div",
    {},
    el("p", { class: "intro how" }, howToRead(run), key),
    streams.window,
    el("div", { class: "map" }, streams.element, el("div", { class: "flow-holder" }, flow), card.element),
    every.element,
  );
  const foretold = el("div", { class: "foretold" });
  const line = el("div", { class: "decoding", role: "img" });
  let rows = [];
  let openLayer = -1;

  // -- building the rows: again whenever another layer opens ------------------------------------------

  function build(state) {
    const kept = document.activeElement?.dataset?.key;
    rows = [];
    openLayer = state.layer;
    flow.replaceChildren(
      el("div", { class: "spine", "aria-hidden": "true" }),
      el("div", { class: "start" }),
      ...embeddingRows(),
      ...Array.from({ length: run.L }, (_, layer) => layerRows(layer, layer === state.layer)),
      ...(run.L === run.model.n_layer ? ending() : []),
    );
    if (kept) flow.querySelector(`[data-key="${CSS.escape(kept)}"]`)?.focus({ preventScroll: true });
  }

  /** The rows before the first layer: what adds up to the stream, and the stream itself. */
  function embeddingRows() {
    return run.model.embeddings.map((site) =>
      site === "embed"
        ? row({ site, name: "stream", height: 18, kind: "stream", open: true })
        : row({ site, name: SOURCES[site] ?? site, height: 12, kind: "source", open: true }),
    );
  }

  function layerRows(layer, open) {
    const title = el(
      "button",
      {
        class: "layer-title",
        type: "button",
        "data-key": `layer ${layer}`,
        "aria-expanded": String(open),
        title: run.layerName(layer),
        onclick: () => focus.set({ layer, part: "resid_post" }),
      },
      open && run.reach(layer) ? `Layer ${layer} · ${run.reach(layer)}` : `Layer ${layer}`,
    );
    const inside = (open ? OPEN : CLOSED)
      .filter(([site]) => site === "heads" || run.part(site))
      .filter(([site]) => site !== "attn.heads" || run.detail.factors.outputs)
      .filter(([site]) => site !== "attn.scores" || run.has("scores"))
      .map(([site, name, height, kind, block]) =>
        site === "heads"
          ? headButtons(layer)
          : row({ site, layer, name, height: heightOf(run, site, height), kind, block, open }),
      );
    return el("div", { class: `layer ${open ? "open" : "closed"}` }, title, inside);
  }

  function ending() {
    const next = el(
      "div",
      { class: "row prediction" },
      el("span", { class: "label" }, "next token"),
      el("span", { class: "gutter" }),
      foretold,
      el("span", { class: "note" }),
    );
    const decoding = el(
      "div",
      { class: "row" },
      el("span", { class: "label" }, "draw"),
      el("span", { class: "gutter" }),
      line,
      el("span", { class: "note" }, el("span", { class: "brief" }, "likeliest, end to end"), el("span", { class: "second" }, "where a draw falls")),
    );
    const logits = run.has("logits") ? [row({ site: "logits", name: "logits", height: 12, kind: "", open: true })] : [];
    return [row({ site: "ln_f", name: "ln_f", height: 12, kind: "read", open: true }), ...logits, next, decoding];
  }

  function row({ site, layer = null, name, height, kind, block = "", open }) {
    const canvas = el("canvas", { "aria-hidden": "true" });
    const note = el("span", { class: "note" });
    const button = el(
      "button",
      { class: `strip ${kind}`, type: "button", "data-key": `${layer} ${site}` },
      canvas,
    );
    const made = { site, layer, height, kind, open, canvas, note, button };
    button.onclick = (event) => {
      const change = { part: site };
      if (layer !== null) change.layer = layer;
      if (hasHeads(run, site) && event.detail) change.head = headUnder(run, site, canvas, event); // not by a key
      focus.set(change);
    };
    canvas.onmousemove = (event) => showTip(event, ...tipLines(run, made, focus.state, event));
    canvas.onmouseleave = hideTip;
    rows.push(made);
    return el(
      "div",
      { class: `row ${kind} ${block}`, "data-site": site },
      el("span", { class: "label" }, name),
      el("span", { class: "gutter" }),
      button,
      note,
    );
  }

  /** "heads 2 to 5": those that share keys and values with a head. */
  function groupName(head) {
    const each = run.H / run.model.n_kv_head;
    const first = run.group(head) * each;
    return each === 2 ? `heads ${first} and ${first + 1}` : `heads ${first} to ${first + each - 1}`;
  }

  function headButtons(layer) {
    const buttons = Array.from({ length: run.H }, (_, head) =>
      el(
        "button",
        {
          type: "button",
          "data-key": `head ${head}`,
          "data-head": head,
          class: run.beginsGroup(head) ? "first-of-group" : "",
          title: run.model.n_kv_head < run.H ? `${groupName(head)} share keys and values` : null,
          "aria-label": run.model.n_kv_head < run.H ? `head ${head} of group ${run.group(head)}` : `head ${head}`,
          onclick: () => focus.set({ layer, head, part: "attn.pattern" }),
        },
        String(head),
      ),
    );
    return el(
      "div",
      { class: "row attention heads" },
      el("span", { class: "label" }, "head"),
      el("span", { class: "gutter" }),
      el("div", { class: run.H > 12 ? "head-buttons many" : "head-buttons" }, buttons),
      el("span", { class: "note" }),
    );
  }

  // -- where the rows are on the page, for the columns on the left -------------------------------------

  function levels() {
    const top = streams.element.getBoundingClientRect().top;
    const seen = [];
    for (const { site, layer, open, kind, canvas } of rows) {
      const box = canvas.getBoundingClientRect();
      const level = {
        site,
        layer: layer ?? 0,
        open,
        y: (box.top + box.bottom) / 2 - top,
        height: box.height,
      };
      const ofAll = kind === "stream" || (open && layer !== null);
      if (ofAll) seen.push(level);
      // a closed layer has no row for the stream between attention and MLP: it is drawn where that would be
      else if (site === "attn.out") seen.push({ ...level, site: "resid_mid", y: box.bottom + 3 - top });
    }
    return seen;
  }

  // -- drawing ------------------------------------------------------------------------------------

  function paint(state) {
    const widths = rows.map(({ button }) => button.clientWidth); // all of them before anything moves
    rows.forEach((made, i) => {
      const { site, layer, button, canvas, height, note } = made;
      const width = widths[i];
      if (!width) return;
      paintRow(run, sized(canvas, width, height), made, state, width);
      const named = ["attn.scores", "attn.pattern"].includes(site) ? "attn.z" : site; // they have no norm of their own
      const chosen = state.part === site && (layer === null || layer === state.layer);
      button.setAttribute("aria-label", stripText(run, named, layer ?? 0, state.pos, state.head));
      button.setAttribute("aria-pressed", String(chosen));
      note.replaceChildren(...noteOf(run, made, state));
      marked(button.parentElement, run.marks?.row(site, layer ?? 0, state.pos));
    });
    for (const button of flow.querySelectorAll("[data-head]")) {
      const head = Number(button.dataset.head);
      button.setAttribute("aria-pressed", String(head === state.head));
      marked(button, run.marks?.looks(state.layer, head, state.pos));
    }
    const ids = [...(run.at("next:id", state.pos) ?? [])].slice(0, 5);
    const chances = run.at("next:p", state.pos);
    const bars = ids.map((id, i) =>
      bar(tokenLabel(run.word(id)), chances[i], percent(chances[i]), {
        kind: "chance",
        moved: run.marks?.next(state.pos, id, chances[i]),
      }),
    );
    foretold.replaceChildren(...bars);
    decode(state);
  }

  /** The likeliest tokens end to end, as a draw meets them: where a number from 0 to 1 falls is what comes next. */
  function decode({ pos }) {
    const ids = [...(run.at("next:id", pos) ?? [])];
    const chances = run.at("next:p", pos);
    const step = run.generation?.steps.find((each) => each.pos === pos);
    const stretches = ids.map((id, i) => {
      const stretch = el("span", { class: step?.id === id ? "taken" : "", title: `${quoted(run.word(id))} ${percent(chances[i])}` });
      stretch.style.width = `${100 * chances[i]}%`;
      return stretch;
    });
    line.setAttribute("aria-label", ids.length ? `the ${ids.length} likeliest end to end: ${percent(chances.reduce((a, b) => a + b, 0))} of all` : "");
    line.replaceChildren(...stretches);
  }

  /** The spine runs from the first stream to the last row that reads it. */
  function stretchSpine() {
    const top = flow.getBoundingClientRect().top;
    const box = (made) => made.canvas.getBoundingClientRect();
    const first = box(rows[0]);
    const last = box(rows[rows.length - 1]);
    const spine = flow.querySelector(".spine");
    spine.style.top = `${first.top - top}px`;
    spine.style.height = `${(last.top + last.bottom) / 2 - first.top}px`;
  }

  function draw(state) {
    if (openLayer !== state.layer || !rows.length) build(state);
    key.replaceChildren(
      scaleKey("diverging", "negative", "positive"),
      el("small", {}, " each strip by its own size; full colour: the largest 3 of 100 cells"),
    );
    const start = flow.querySelector(".start");
    const sources = run.model.embeddings.length - 1; // rows above the stream, as high as the tokens' names
    start.style.height = `${Math.max(0, streams.head - 22 * sources)}px`;
    start.replaceChildren(
      el("span", {}, `position ${state.pos}`),
      el("strong", {}, tokenLabel(run.labels[state.pos])),
    );
    paint(state);
    stretchSpine();
    streams.draw(state);
    putOnPaper(streams.element, flow);
    card.draw(state);
    every.draw(state);
  }
  return { id: "map", title: "Map", element, draw };
}

/** What a reader must know before the first look. */
function howToRead(run) {
  const factor = run.detail.factors.n_embd;
  const cell = factor === 1 ? "one number" : `${factor} neighbouring numbers, the largest of them shown`;
  return [
    "Read from top to bottom. Left: the ",
    el("b", {}, "residual stream"),
    " of every token, and what the chosen head carries between them. Middle: the chosen token. Every strip is a " +
      `vector, every cell ${cell}; blocks read the stream and add to it. ` +
      (someNotKept(run) ? "What is grey was not kept. " : ""),
    el("span", { class: "on-screen" }, "Click a token, a layer, a head or a vector: everything else follows. "),
  ];
}

/** Whether the run lacks vectors that the map has rows for. */
function someNotKept(run) {
  return Object.entries(run.missing).some(([part, why]) => {
    const hasRow = part.startsWith("vector") && part !== "vector logits" && (part !== "vector ln_f" || run.L === run.model.n_layer);
    return hasRow && !why.startsWith("left out"); // what was left out for size has no row
  });
}
