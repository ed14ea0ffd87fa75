// What penalties changed in the logits of one step: how many, and the largest changes.

import { el, signed, tokenLabel } from "./drawing.js";

export const OPTIONS = {
  temperature: "temperature",
  top_k: "top-k",
  top_p: "top-p",
  min_p: "min-p",
  repetition_penalty: "repetition penalty",
  presence_and_frequency_penalty: "presence and frequency penalty",
  no_repeat_ngram_size: "no repeated n-grams",
};

/** A table for each penalty of a step; nothing where no penalty is on. `what` is what it changes, one and several of it. */
export function penaltyTables(run, choice, what) {
  return (choice.penalized ?? []).map((penalty) => {
    const name = OPTIONS[penalty.name] ?? penalty.name,
      title = `${name[0].toUpperCase()}${name.slice(1)}`;
    if (!penalty.count) return el("div", {}, el("h4", {}, `${title}: nothing changed`));
    const rows = penalty.largest.map(([id, before, after]) =>
      el(
        "tr",
        { class: id === choice.id ? "is-chosen" : "" },
        el("th", { scope: "row" }, tokenLabel(run.word(id)), id === choice.id ? el("small", {}, " chosen") : null),
        [signed(before, 3), after === null ? "removed" : signed(after, 3), after === null ? "–" : signed(after - before, 3)].map((text) => el("td", {}, text)),
      ),
    );
    const more = penalty.count - penalty.largest.length;
    return el(
      "div",
      {},
      el("h4", {}, `${title}: ${penalty.count.toLocaleString("en")} ${what[penalty.count === 1 ? 0 : 1]} changed`),
      el(
        "table",
        { class: "plain" },
        el("thead", {}, el("tr", {}, ["token", "before", "after", "change"].map((column) => el("th", { scope: "col" }, column)))),
        el("tbody", {}, rows),
      ),
      more > 0 ? el("p", { class: "small" }, `And ${more.toLocaleString("en")} more, by less.`) : null,
    );
  });
}
