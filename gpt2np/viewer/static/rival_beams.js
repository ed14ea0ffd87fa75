// A beam search, step by step: the texts that were carried on side by side, those that ended, and the one that won.

import { bar, el, signed, tokenLabel } from "./drawing.js";

const TAIL = 6; // tokens of a beam that are shown: its last ones

/** What the panel of a generation has of its beams: {element, draw(step)}; null where nothing is known of them. */
export function rivalBeams(run) {
  const beams = run.generation.beams;
  if (!beams) return null;
  const texts = textsOf(beams.steps),
    winner = beams.texts[0].ids,
    live = el("div", {}),
    ended = el("div", {}),
    title = el("h4", {});
  const left = el("div", { class: "beams-left" }, el("h4", {}, `The ${beams.texts.length} best texts at the end`), lastTexts(run, beams.texts));
  const element = el("div", { class: "rival-beams" }, title, live, ended, left);

  function draw(step) {
    const at = beams.steps[step];
    title.textContent = `The beams after step ${step}, best first`;
    if (!at) {
      live.replaceChildren(el("p", { class: "absent" }, "The steps of this search were left out to keep the page small."));
      return ended.replaceChildren();
    }
    const best = at.live[0]?.[2] ?? 0;
    live.replaceChildren(
      el("p", { class: "small" }, "Score: log-probability of all that was generated; the bar: how likely the beam is beside the best one. ", el("strong", {}, "✓"), " the text that won came this way."),
      ...at.live.map(([parent, , score], i) =>
        bar(labelOf(run, texts[step].live[i], winner, parent, step), Math.exp(score - best), signed(score, 3), { kind: "chance" }),
      ),
    );
    ended.replaceChildren(
      ...(at.ended.length ? [el("h4", {}, "Ended in this step, with the score that counts")] : []),
      ...at.ended.map(([parent, , score], i) => bar(labelOf(run, texts[step].ended[i], winner, parent, step), 0, signed(score, 3))),
    );
  }
  return { element, draw };
}

/** The tokens of every beam of every step, from its parents. */
function textsOf(steps) {
  const found = [];
  for (const [step, { live, ended }] of steps.entries()) {
    const text = ([parent, id]) => [...(step ? found[step - 1].live[parent] : []), id];
    found.push({ live: live.map(text), ended: ended.map(text) });
  }
  return found;
}

/** The last tokens of a beam, whether the winner came this way, and which beam of the step before it continues. */
function labelOf(run, text, winner, parent, step) {
  const won = text.every((id, i) => id === winner[i]),
    shown = text.slice(-TAIL);
  return [
    el("span", { class: "won" }, won ? "✓ " : ""),
    text.length > TAIL ? "… " : "",
    ...shown.map((id) => tokenLabel(run.word(id), 12)),
    el("small", {}, step ? ` from beam ${parent}` : ""),
  ];
}

function lastTexts(run, texts) {
  const rows = texts.map(({ ids, score }, i) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, i ? String(i + 1) : "1 (won)"),
      el("td", {}, signed(score, 4)),
      el("td", { class: "whole" }, ids.flatMap((id) => [el("wbr"), tokenLabel(run.word(id), 60)])),
    ),
  );
  return [
    el("p", { class: "small" }, "Score: log-probability of what was generated, over its length to the power of the length penalty."),
    el(
      "table",
      { class: "plain" },
      el("thead", {}, el("tr", {}, ["place", "score", "text"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows),
    ),
  ];
}
