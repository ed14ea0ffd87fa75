// The unembedding as similarity: the final vector of the chosen position beside the rows of the tokens that it is nearest to.

import { bar, digits, el, tokenLabel } from "./drawing.js";

const MEASURED = ["token", "logit: dot product", "length of its row", "cosine"];

/** The section about the chosen position. */
export function nearestRows(run) {
  const element = el("section", { class: "nearest" });
  const draw = ({ pos }) => element.replaceChildren(...besideRows(run, pos));
  return { element, draw };
}

function besideRows(run, pos) {
  const found = run.at("near", pos - run.detail.firstLens);
  if (!found) {
    const why = run.missing.near ?? (run.has("near") ? `left out before position ${run.detail.firstLens}, to keep the page small` : null);
    return why ? [nearestTitle(run, pos), el("p", { class: "absent" }, `Not in this page: ${why}.`)] : [];
  }
  const ids = run.at("next:id", pos),
    length = run.stats("ln_f", 0, pos)?.norm;
  const rows = Array.from({ length: found.length / 3 }, (_, i) => [ids[i], ...found.subarray(3 * i, 3 * i + 3)]);
  return [
    nearestTitle(run, pos),
    el(
      "p",
      { class: "small" },
      `A logit is a dot product${run.model.capped ? ", before its cap" : ""}: the cosine of two directions times both lengths. The vector is that after the final norm${length ? `, of length ${digits(length, 4)}` : ""}; the rows are those with the largest dot product.`,
    ),
    el(
      "div",
      { class: "two" },
      el(
        "div",
        { class: "scroll" },
        el(
          "table",
          { class: "plain" },
          el("thead", {}, el("tr", {}, MEASURED.map((name) => el("th", { scope: "col" }, name)))),
          el(
            "tbody",
            {},
            rows.map(([id, ...values]) => el("tr", {}, el("th", { scope: "row" }, tokenLabel(run.word(id))), values.map((value) => el("td", {}, digits(value, 4))))),
          ),
        ),
      ),
      el(
        "div",
        { class: "columns" },
        el("h4", {}, "cosine"),
        rows.map(([id, , , cosine]) => bar(tokenLabel(run.word(id)), cosine, digits(cosine, 3), { kind: cosine < 0 ? "push" : "share" })),
      ),
    ),
  ];
}

function nearestTitle(run, pos) {
  return el("h3", {}, "The final vector of ", tokenLabel(run.labels[pos]), ` (${pos}) beside its nearest rows of the unembedding`);
}
