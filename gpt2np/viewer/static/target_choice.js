// Buttons for the tokens whose logit is taken apart at a position.

import { el, percent, tokenLabel } from "./drawing.js";

/** A button for each choice: a place in `ids`, or "difference" of the first two. `choose` is told which. */
export function targetButtons(run, pos, ids, choices, target, choose) {
  return choices.map((choice) =>
    el(
      "button",
      { type: "button", "aria-pressed": String(choice === target), onclick: () => choose(choice) },
      ...(choice === "difference"
        ? [tokenLabel(run.word(ids[0])), " minus ", tokenLabel(run.word(ids[1]))]
        : [tokenLabel(run.word(ids[choice])), chance(run, ids[choice], pos)]),
    ),
  );
}

function chance(run, id, pos) {
  const i = [...(run.at("next:id", pos) ?? [])].indexOf(id);
  return i < 0 ? el("small", {}, " comes next") : el("small", {}, ` ${percent(run.at("next:p", pos)[i])}`);
}
