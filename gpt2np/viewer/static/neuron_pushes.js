// What neurons add to one token's logit: activation times the row that each writes, held against the token's unembedding.

import { absent, bar, el, signed, tokenLabel } from "./drawing.js";
import { targetButtons } from "./target_choice.js";

export function neuronPushes(run, focus) {
  let target = 0;
  const choose = el("div", { class: "toggle wrap", role: "group", "aria-label": "token whose logit is pushed" }),
    lists = el("div", { class: "lists" }),
    told = el("p", { class: "small" });
  const element = el("div", { class: "neuron-pushes" }, el("h3", {}, "What neurons add to a logit"), choose, told, lists);
  if (!run.has("neuron:push")) {
    // a live page has none, and no reason
    element.replaceChildren(...(run.missing["neuron pushes"] ? [absent(run, "neuron pushes", "What neurons add to a logit is")] : []));
    element.hidden = !run.missing["neuron pushes"];
    return { element, draw() {} };
  }

  function draw(state) {
    const pos = Math.max(state.pos, run.detail.firstLens),
      row = pos - run.detail.firstLens,
      ids = [...run.at("push:id", row)];
    if (target >= ids.length) target = 0;
    choose.replaceChildren(
      ...targetButtons(run, pos, ids, [...ids.keys()], target, (chosen) => {
        target = chosen;
        focus.told(new Set()); // captions name it
      }),
    );
    told.replaceChildren(
      `A neuron’s activation times its row of W_out, through the final ${run.model.norm} with the scale that it had at `,
      tokenLabel(run.labels[pos]),
      ` (${pos}), held against the unembedding of `,
      tokenLabel(run.word(ids[target])),
      `: its share in what the MLP adds to the logit${run.model.capped ? " before the cap" : ""}. Biases are not counted.`,
    );
    const strongest = [...run.at("pusher:push", row, target)].map((push, i) => [
      push,
      run.at("pusher:layer", row, target)[i],
      run.at("pusher:id", row, target)[i],
    ]);
    const active = [...run.at("neuron:push", state.layer, row, target)].map((push, i) => [
      push,
      state.layer,
      run.at("neuron:id", state.layer, pos - run.detail.first)[i],
    ]);
    lists.replaceChildren(
      list(`Layer ${state.layer}: the most active`, active.slice(0, 12), state),
      list("All layers: the strongest up", strongest.filter(([push]) => push > 0).slice(0, 10), state),
      list("and down", strongest.filter(([push]) => push < 0).slice(0, 10), state),
    );
  }

  function list(title, pushes, state) {
    const most = Math.max(...pushes.map(([push]) => Math.abs(push) || 0), 1e-9);
    return el(
      "div",
      {},
      el("h4", {}, title),
      pushes.map(([push, layer, id]) =>
        bar(`layer ${layer} · ${id}`, push / most, signed(push, 3), {
          kind: "push",
          chosen: state.neuron === `${layer}.${id}`,
          onclick: () => focus.set({ layer, neuron: `${layer}.${id}` }),
        }),
      ),
    );
  }
  return { element, draw };
}
