// Paths of two steps to one token's logit: who wrote what a head carried to the chosen position.

import { absent, bar, el, signed, tokenLabel } from "./drawing.js";

/** The strongest paths to a token's logit; `label` names a component, `choose` is told layer and head that are clicked. */
export function pathsTo(run, pos, target, label, choose) {
  if (!run.has("path:push") && !run.missing.paths) return []; // a live page, or a model whose heads are not known so
  const title = el("h3", {}, "By way of a head: who wrote what it carried");
  if (!run.has("path:push")) return [title, absent(run, "paths", "Paths are")];
  const first = run.T - run.arrays["path:push"].shape[0];
  if (pos < first)
    return [title, el("p", { class: "absent" }, `Only positions from ${first} on have their paths in this page.`)];
  const at = (name) => run.at(`path:${name}`, pos - first, target);
  const pushes = at("push"),
    most = Math.max(...Array.from(pushes, Math.abs), 1e-9);
  const paths = [...pushes.keys()]
    .filter((i) => pushes[i])
    .map((i) => {
      const [layer, head] = [Math.floor(at("head")[i] / run.H), at("head")[i] % run.H];
      const from = at("pos")[i];
      const name = [`${label(at("writer")[i])} at `, tokenLabel(run.labels[from], 12), ` (${from}) → layer ${layer} head ${head}`];
      return bar(el("span", {}, name), pushes[i] / most, signed(pushes[i], 3), {
        kind: "push",
        onclick: () => choose({ layer, head }),
      });
    });
  return [
    title,
    el(
      "p",
      { class: "small" },
      "What a head adds to the logit is a sum over all that was written before it, wherever it looks: here are the largest of these parts. " +
        `Attention and the scales of ${run.model.norm} are held as they were; what a head’s biases add is not counted. A part is counted in the head’s bar above, too.`,
    ),
    paths.length ? el("div", { class: "long-names" }, paths) : el("p", {}, "Nothing was written before the first heads but what is above."),
  ];
}
