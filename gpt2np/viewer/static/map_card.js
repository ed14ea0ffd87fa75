// The card beside the map: what the chosen part is, its formula, shape and line of code, and its numbers here.

import {
  absent,
  bar,
  digits,
  el,
  fullColour,
  hideTip,
  paintStrip,
  percent,
  quoted,
  showTip,
  sized,
  tokenLabel,
} from "./drawing.js";

const ATTENTION = [
  "attn.q",
  "attn.k",
  "attn.q_rot",
  "attn.k_rot",
  "attn.v",
  "attn.scores",
  "attn.pattern",
  "attn.z",
  "attn.heads",
  "attn.out",
];

export function partOf(run, site) {
  return run.part(site);
}

/** Name of a site inside the trace. */
export function fullName(run, site, layer) {
  return partOf(run, site).layered ? `h.${layer}.${site}` : site;
}

/** "[pos, head, d_head] = [3, 4, 48]" */
export function shapeText(part) {
  return `[${part.axes.join(", ")}] = [${part.shape.map((n) => n.toLocaleString("en")).join(", ")}]`;
}

/** What a strip says under the pointer. */
export function stripTip(run, site, cells, fraction) {
  const factor = run.factor(site),
    i = Math.min(cells.length - 1, Math.floor(fraction * cells.length));
  if (site === "logits") {
    const side = cells[i] < 0 ? "below" : "above";
    return `tokens ${i * factor} to ${(i + 1) * factor - 1}: the one furthest from the mean of all is ≈ ${digits(Math.abs(cells[i]), 2)} ${side} it`;
  }
  const where =
    factor === 1 ? `component ${i}` : `components ${i * factor} to ${(i + 1) * factor - 1}, the largest`;
  return `${where}: ${run.detail.floats ? digits(cells[i], 3) : `≈ ${digits(cells[i], 2)}`}`;
}

export function buildCard(run, focus) {
  const body = el("div", { class: "card-body" });
  const more = el(
    "button",
    { class: "more", type: "button", tabindex: "-1", onclick: () => element.scrollBy({ top: element.clientHeight - 60, behavior: "smooth" }) },
    "more below ↓",
  );
  const element = el(
    "aside",
    { class: "card", "aria-live": "polite", "aria-label": "The chosen part", onscroll: sayWhetherCut },
    body,
    more,
  );
  let shownLast = ""; // the part that was shown before
  let paintLater = () => {}; // a strip knows its width only when it is on the page

  /** A card that is higher than the window scrolls: say so while there is more below. */
  function sayWhetherCut() {
    const scrolls = getComputedStyle(element).overflowY === "auto" && element.clientHeight > 0;
    more.hidden = !scrolls || element.scrollHeight - element.scrollTop - element.clientHeight < 20;
  }

  function draw(state) {
    paintLater = () => {};
    const { layer, head, pos } = state,
      part = partOf(run, state.part),
      perHead = run.perHead(part.site);
    const name = fullName(run, part.site, layer),
      stats = run.stats(part.site, layer, pos, head);
    const cells = run.strip(part.site, layer, pos, head);
    const whose = [
      `position ${pos} `,
      quoted(run.labels[pos]),
      whoseHead(part.site, perHead, head),
    ].join("");
    body.replaceChildren(
      ...[
        el("h3", {}, part.title),
        el("p", { class: "site" }, el("code", {}, name), el("span", {}, ` ${whose}${idOf(part.site, pos)}`)),
        cells ? strip(cells, part.site) : missing(part.site),
        stats
          ? el(
              "p",
              { class: "numbers" },
              stats.min === undefined
                ? `norm ${digits(stats.norm, 4)}`
                : `norm ${digits(stats.norm, 4)} · from ${digits(stats.min)} to ${digits(stats.max)}`,
              movedBy(part.site, layer, pos, head),
            )
          : null,
        part.site === "logits" && cells ? el("p", { class: "small" }, "The strip is less the mean of all logits, which softmax does not see.") : null,
        el("p", { class: "text" }, part.text),
        el(
          "dl",
          { class: "facts" },
          part.formula ? [el("dt", {}, "Formula"), el("dd", { class: "formula" }, part.formula)] : [],
          el("dt", {}, "Shape"),
          el("dd", {}, el("code", { class: "shape" }, shapeText(part))),
          el("dt", {}, `${part.file}, line ${part.line}`),
          el("dd", {}, el("code", { class: "line" }, part.code)),
        ),
        ...spread(name, pos),
        ...learned(name),
        ...here(state, part),
        ...background(part.site),
      ].filter(Boolean),
    );
    paintLater();
    if (shownLast !== name) element.scrollTop = 0;
    shownLast = name;
    sayWhetherCut();
  }

  /** How far it has moved from what it is compared with. */
  function movedBy(site, layer, pos, head) {
    const share = run.marks?.distance(site, layer, pos, head) ?? null;
    return share === null ? "" : ` · moved by ${Number.isFinite(share) ? `${digits(100 * share, 2)} % of its length` : "all of it"}`;
  }

  /** The number of a token, where its row is what is shown: "W_E[340]". */
  function idOf(site, pos) {
    if (site === "wte") return `: W_E[${run.ids[pos]}]`;
    return site === "wpe" ? `: W_P[${pos}]` : "";
  }

  // What a norm took away from this very vector, and multiplied it by.
  function spread(name, pos) {
    const found = run.spread?.[name];
    const row = pos - run.detail.first;
    if (!found?.rstd || row < 0) return [];
    const mean = found.mean ? `mean ${digits(found.mean[row])} taken away, then ` : "";
    return [el("p", { class: "small" }, `Here: ${mean}times 1/σ = ${digits(found.rstd[row])}.`)];
  }

  // What a norm multiplies by and adds, of each component.
  function learned(name) {
    const norm = run.norms?.[name];
    return Object.entries(norm ?? {}).flatMap(([kind, { cells: values, low, high }]) => {
      const canvas = el("canvas", { role: "img", "aria-label": `${kind} of ${name}` });
      const holder = el("div", { class: "big-strip" }, canvas);
      const before = paintLater;
      paintLater = () => {
        before();
        const width = Math.max(60, holder.clientWidth);
        paintStrip(sized(canvas, width, 12), values, 0, 0, width, 12);
      };
      const letter = { scale: "γ, its scale", shift: "β, its shift" }[kind] ?? kind;
      return [el("dt", {}, `${letter}: from ${digits(low, 2)} to ${digits(high, 2)}`), holder];
    });
  }

  // What is known about such a part, and where that is from.
  function background(site) {
    const notes = (run.commentary ?? []).filter(({ sites }) => sites.includes(site));
    if (!notes.length) return [];
    return [
      el("h4", {}, "What is known"),
      ...notes.map(({ title, text, source, address }) =>
        el(
          "p",
          { class: "known" },
          el("b", {}, `${title}. `),
          `${text} `,
          el("a", { class: "source", href: address, rel: "noreferrer", target: "_blank" }, source),
        ),
      ),
    ];
  }

  function whoseHead(site, perHead, head) {
    if (run.shares(site) && run.model.n_kv_head < run.H) return `, group ${run.group(head)} of heads`;
    return perHead || ["attn.scores", "attn.pattern"].includes(site) ? `, head ${head}` : "";
  }

  // Why there is no strip, where there should be one.
  function missing(site) {
    if (run.missing[`vector ${site}`]) return absent(run, `vector ${site}`, "This vector is");
    const early = focus.state.pos < run.detail.first && run.has(site);
    return early
      ? el("p", { class: "absent" }, `Only positions from ${run.detail.first} on are in this page.`)
      : null;
  }

  function strip(cells, site) {
    const canvas = el("canvas", { role: "img", "aria-label": `${site}: ${cells.length} cells` });
    canvas.onmouseleave = hideTip;
    const holder = el("div", { class: "big-strip" }, canvas);
    paintLater = () => {
      const width = Math.max(60, holder.clientWidth),
        rows = cells.length > 96 ? 3 : cells.length > 32 ? 2 : 1;
      const each = Math.ceil(cells.length / rows),
        context = sized(canvas, width, rows * 22 - 4),
        full = fullColour(cells);
      for (let row = 0; row < rows; row++) {
        const part = cells.slice(row * each, (row + 1) * each);
        paintStrip(context, part, 0, row * 22, (width * part.length) / each, 18, full);
      }
      canvas.onmousemove = (event) => {
        const i = Math.floor(event.offsetY / 22) * each + Math.floor((event.offsetX / width) * each);
        if (i < cells.length) showTip(event, stripTip(run, site, cells, (i + 0.5) / cells.length));
      };
    };
    return holder;
  }

  // The part's meaning at this very place: where the head looks, what would be said here, who fires.
  function here(state, part) {
    const { layer, head, pos } = state;
    if (ATTENTION.includes(part.site)) {
      const weights = run.weights(layer, head, pos);
      if (!weights) return [absent(run, "attention", "Attention is")];
      const best = [...weights.keys()]
        .slice(run.firstSeen(layer, pos))
        .sort((a, b) => weights[b] - weights[a])
        .slice(0, 5);
      const reach = run.reach(layer);
      return [
        el("h4", {}, `Layer ${layer}, head ${head}${reach ? ` (${reach})` : ""} looks from here at`),
        ...best.map((key) =>
          bar(
            [tokenLabel(run.labels[key]), el("small", {}, ` ${key}`)],
            weights[key],
            run.weightText(weights[key]),
            { kind: "share" },
          ),
        ),
        link("all of it", "attention"),
      ];
    }
    if (part.site.startsWith("mlp")) {
      const ids = run.at("neuron:id", layer, pos - run.detail.first);
      if (!ids) return [];
      const post = run.at("neuron:post", layer, pos - run.detail.first);
      return [
        el("h4", {}, `Most active neurons of layer ${layer}`),
        ...[...ids]
          .slice(0, 5)
          .map((id, i) =>
            bar(`neuron ${id}`, post[i] / Math.max(post[0], 1e-9), digits(post[i]), { kind: "share" }),
          ),
        link("all of them", "mlp"),
      ];
    }
    if (part.site === "logits" || part.site === "ln_f")
      return predictions("The model predicts", run.at("next:id", pos), run.at("next:p", pos), "lens");
    const point = part.site.startsWith("resid")
      ? run.point(layer, part.site)
      : part.site === "embed"
        ? 0
        : null;
    if (point === null) return [];
    const row = pos - run.detail.firstLens;
    return predictions(
      "Stopped here, it would predict",
      run.at("lens:id", point, row),
      run.at("lens:p", point, row),
      "lens",
    );
  }

  function predictions(title, ids, chances, panel) {
    if (!ids) return [];
    return [
      el("h4", {}, title),
      ...[...ids]
        .slice(0, 5)
        .map((id, i) => bar(tokenLabel(run.word(id)), chances[i], percent(chances[i]), { kind: "chance" })),
      link("at every layer", panel),
    ];
  }

  function link(text, panel) {
    return el("button", { class: "link", type: "button", onclick: () => focus.set({ panel }) }, `${text} →`);
  }
  return { element, draw };
}

/** A sentence for those who do not see the strip. */
export function stripText(run, site, layer, pos, head) {
  const stats = run.stats(site, layer, pos, head);
  return `${fullName(run, site, layer)} at position ${pos} ${quoted(run.labels[pos])}${stats ? `, norm ${digits(stats.norm)}` : ""}`;
}
