// What changed: the run that is shown against the one before it, or, with parts switched off, against the whole model.

import { bar, colour, darkOn, digits, el, hideTip, percent, quoted, scaleKey, showTip, signed, tokenLabel } from "./drawing.js";
import { aligned, losses, meanLossOf, movedHeads, movedStream } from "./live_difference.js";

const SHOWN = 8,
  LEAST = 0.0005; // what is less has not changed

/** The panel; `compared()` gives {before, why}, `before` null where there is nothing to compare with. */
export function changesPanel(compared) {
  return (run, focus) => {
    const { before, why } = compared(),
      element = el("div", { class: "changes" });
    if (!before) {
      element.append(
        el("p", { class: "absent" }, "Nothing has changed yet: type, swap a token, or switch something off, and this page shows what became different."),
      );
      return { id: "changes", title: "What changed", element, empty: true, draw() {} };
    }
    const next = el("div", {}),
      stream = el("div", { class: "moved" }),
      heads = el("div", { class: "moved" }),
      words = el("div", {});
    element.append(
      el("p", { class: "answer" }, ...comparedIn(before, run, why)),
      el("div", { class: "two" }, next, words),
      el("div", { class: "two" }, stream, heads),
    );
    const moved = movedStream(before, run),
      turned = movedHeads(before, run),
      places = aligned(before, run);

    function draw(state) {
      next.replaceChildren(...nextBeside(before, run, places, state.pos));
      words.replaceChildren(...lossesBeside(before, run, places, focus, state));
      stream.replaceChildren(...streamGrid(run, moved, focus, state));
      heads.replaceChildren(...headGrid(turned, focus, state));
    }
    return { id: "changes", title: "What changed", element, draw };
  };
}

function comparedIn(before, run, why) {
  const [was, is] = [meanLossOf(before), meanLossOf(run)];
  const said = [`Against ${why}. `];
  if (was !== null && is !== null)
    said.push("Loss of the text: ", el("strong", {}, `${was.toFixed(3)} → ${is.toFixed(3)}`), ` nats a token (${signed(is - was, 3)}).`);
  return said;
}

/** What follows a position, before and after. */
function nextBeside(before, run, places, pos) {
  const was = places[pos],
    chances = (of, at) => new Map(at === null ? [] : [...of.at("next:id", at)].map((id, i) => [id, of.at("next:p", at)[i]]));
  const old = chances(before, was),
    now = chances(run, pos),
    ids = [...new Set([...now.keys(), ...old.keys()])],
    most = (id) => Math.max(now.get(id) ?? 0, old.get(id) ?? 0);
  ids.sort((a, b) => most(b) - most(a));
  const text = (map, id) => (map.has(id) ? percent(map.get(id)) : map.size ? "small" : "–");
  return [
    el("h3", {}, "After ", tokenLabel(run.labels[pos]), ` (${pos}), before and now`),
    was === null ? el("p", { class: "small" }, "This token was not there before.") : null,
    ...ids.slice(0, SHOWN).map((id) =>
      el(
        "div",
        { class: "pair" },
        bar(tokenLabel(run.vocabulary[id] ?? before.word(id)), old.get(id) ?? 0, text(old, id), { kind: "share" }),
        bar("", now.get(id) ?? 0, text(now, id), { kind: "chance" }),
      ),
    ),
    el("p", { class: "small" }, "Green before, blue now."),
  ].filter(Boolean);
}

/** Every token with its loss before and now, those that moved most first. */
function lossesBeside(before, run, places, focus, state) {
  const [old, now] = [losses(before), losses(run)],
    both = now.flatMap((loss, pos) => (loss === null || places[pos] === null || old[places[pos]] === null ? [] : [[pos, old[places[pos]], loss]]));
  if (!both.some(([, a, b]) => Math.abs(b - a) > LEAST))
    return [
      el("h3", {}, "Tokens that became easier or harder to foresee"),
      el("p", { class: "small" }, "None of those that were there before: a position cannot see what comes after it."),
    ];
  both.sort((a, b) => Math.abs(b[2] - b[1]) - Math.abs(a[2] - a[1]));
  const most = Math.max(0.01, ...both.map(([, a, b]) => Math.abs(b - a)));
  return [
    el("h3", {}, "Tokens that became easier or harder to foresee"),
    ...both.slice(0, 2 * SHOWN).map(([pos, a, b]) =>
      bar([tokenLabel(run.labels[pos], 14), el("small", {}, ` ${pos}`)], (b - a) / most, `${a.toFixed(2)} → ${b.toFixed(2)}`, {
        kind: "push",
        chosen: pos === state.pos,
        onclick: () => focus.set({ pos }),
      }),
    ),
    el("p", { class: "small" }, "Loss in nats, before → now. Orange: harder now; blue: easier."),
  ];
}

function cellOf(value, title, here, onclick) {
  const t = value === null ? 0 : Math.sqrt(Math.min(1, value));
  const cell = el("button", {
    type: "button",
    class: darkOn("share", t) ? "light-ink" : "dark-ink",
    "aria-pressed": String(here),
    "aria-label": title,
    onclick,
    onmousemove: (event) => showTip(event, title),
    onmouseleave: hideTip,
  });
  cell.style.background = value === null ? "transparent" : colour("share", t);
  return cell;
}

/** Layers down, positions across: how far the stream moved. */
function streamGrid(run, moved, focus, state) {
  const grid = el("div", { class: "grid scroll", role: "group", "aria-label": "how far the stream moved" });
  grid.style.setProperty("--columns", run.T);
  grid.append(
    ...moved.flatMap((row, i) => [
      el("span", { class: "side" }, i ? `layer ${i - 1}` : "embed"),
      ...row.map((value, pos) => {
        const where = `${i ? `after layer ${i - 1}` : "embedding"}, ${quoted(run.labels[pos])} (${pos})`;
        const title = value === null ? `${where}: new` : `${where}: moved by ${digits(100 * value, 3)} % of its length`;
        return cellOf(value, title, i > 0 && i - 1 === state.layer && pos === state.pos, () => focus.set({ pos, ...(i ? { layer: i - 1 } : {}) }));
      }),
    ]),
  );
  return [
    el("h3", {}, "Where the stream moved"),
    el("p", { class: "small" }, "Layers down, positions across. ", scaleKey("share", "as before", "by 25 %", "by its length")),
    grid,
  ];
}

/** Layers down, heads across: how much of its attention goes elsewhere. */
function headGrid(turned, focus, state) {
  const grid = el("div", { class: "grid", role: "group", "aria-label": "heads by how much they look elsewhere" }),
    order = turned.flatMap((row, layer) => row.map((value, head) => [value, layer, head])).sort((a, b) => b[0] - a[0]);
  const best = order.slice(0, 3).filter(([value]) => value > LEAST);
  grid.style.setProperty("--columns", turned[0].length);
  grid.append(
    ...turned.flatMap((row, layer) => [
      el("span", { class: "side" }, `layer ${layer}`),
      ...row.map((value, head) =>
        cellOf(value, `layer ${layer} head ${head}: ${digits(100 * value, 3)} % of its attention goes elsewhere`, layer === state.layer && head === state.head, () => focus.set({ layer, head })),
      ),
    ]),
  );
  return [
    el("h3", {}, "Heads that look elsewhere"),
    el("p", { class: "small" }, best.length ? `Most: ${best.map(([value, layer, head]) => `layer ${layer} head ${head} (${digits(100 * value, 2)} %)`).join(", ")}.` : "None."),
    grid,
  ];
}
