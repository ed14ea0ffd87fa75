// Two texts side by side: their tokens under one another, what each predicts, and where their runs part.

import { el, percent, quoted, tokenLabel } from "./drawing.js";
import { WHICH, TwoRuns } from "./two_runs.js";
import { twoPatterns } from "./two_patterns.js";
import { twoPredictions } from "./two_predictions.js";
import { twoStreams } from "./two_streams.js";

const STEADY = 0.0005; // nats: what is less has not changed

export function againstPanel(run, focus) {
  const two = new TwoRuns(run),
    element = el("div", { class: "side-by-side" }),
    told = el("p", { class: "answer" });
  const words = two.columns.map((_, column) => columnButton(two, column, () => choose(column))),
    texts = el("div", { class: "both-texts", role: "toolbar", "aria-label": "the two texts, token under token" }, words);
  const predictions = twoPredictions(two),
    streams = twoStreams(two, choose, () => focus.told(new Set())),
    patterns = twoPatterns(two, focus);
  const parts = [predictions, streams, patterns];
  element.append(
    el("p", { class: "intro" }, ...intro(two)),
    texts,
    told,
    ...parts.map((part) => part.element),
  );

  /** Choose a column, and with it the position of the first text; elsewhere on the page only that counts. */
  function choose(column, change = {}) {
    const [pos] = two.columns[column];
    two.chosen = column;
    focus.set({ ...(pos === null ? {} : { pos }), ...change });
    draw(focus.state);
  }

  function draw(state) {
    two.follow(state.pos);
    words.forEach((word, column) => {
      word.setAttribute("aria-pressed", String(column === two.chosen));
      word.tabIndex = column === two.chosen ? 0 : -1;
    });
    const here = words[two.chosen];
    if (texts.contains(document.activeElement)) here.focus({ preventScroll: true }); // the keyboard goes along
    texts.scrollTop = here.offsetTop - texts.offsetTop - here.offsetHeight; // in sight, with the row before it
    told.replaceChildren(...answer(two));
    for (const part of parts) part.draw(state);
  }
  return { id: "against", title: "Side by side", element, draw };
}

/** Both tokens of a column as a button, the first text's above. */
function columnButton(two, column, onclick) {
  const pair = two.columns[column],
    differs = two.differs(column),
    ends = two.aligned.length === column;
  const word = (i) => (pair[i] === null ? el("span", { class: "nothing" }, "–") : tokenLabel(two.runs[i].labels[pair[i]], 20));
  const said = pair.map((pos, i) => (pos === null ? `${WHICH[i]}: nothing` : `${WHICH[i]}: ${quoted(two.runs[i].labels[pos])} at ${pos}`));
  return el(
    "button",
    {
      type: "button",
      class: `both${differs ? " differs" : ""}${ends ? " ends" : ""}`,
      "aria-label": `${ends ? "the two ends; " : ""}${said.join(", ")}`,
      title: said.join("\n"),
      onclick,
    },
    el("span", { class: "of-first" }, word(0)),
    el("span", { class: "unequal", "aria-hidden": "true" }, differs ? "≠" : ""),
    el("span", { class: "of-second" }, word(1)),
  );
}

/** What stands beside what, said honestly. */
function intro(two) {
  const [a, b] = two.runs.map((run) => run.T),
    alone = two.aligned.filter((pair) => pair.includes(null)).length;
  const edited = two.runs.map((run) => run.edits ?? run.model.edits);
  const held =
    a === b
      ? `Both texts have ${a} tokens and are held against each other position by position.`
      : `The texts have ${a} and ${b} tokens. Equal tokens stand under one another. Between two such places, what is left is paired from its end backwards; ${standAlone(alone)}. A token that is at another position in the second text has another position embedding there.`;
  return [
    `The first text above, the second below; ≠ where the tokens differ. ${held} `,
    two.aligned.length < two.columns.length ? "The last column is the end of both texts, which do not stand under one another. " : "",
    ...edited.flatMap((edits, i) => (edits.length ? [`The ${WHICH[i]} run was edited: ${edits.slice(0, 3).join(", ")}. `] : [])),
    "Everything below is about the chosen column.",
  ];
}

function standAlone(n) {
  if (!n) return "no token stands alone";
  return n === 1 ? "1 token has none beside it and stands alone" : `${n} tokens have none beside them and stand alone`;
}

/** What comes next in either text, and how foreseeable the texts are. */
function answer(two) {
  const parts = two.runs.map((run, i) => {
    const pos = two.pair[i],
      [id] = (pos === null ? null : run.at("next:id", pos)) ?? [];
    if (id === undefined) return [`${WHICH[i]}: –`];
    return [`${WHICH[i]}: after `, ...two.named(i), " comes ", tokenLabel(run.word(id)), ` ${percent(run.at("next:p", pos)[0])}`];
  });
  const losses = two.runs.map(meanLoss);
  return [...parts[0], "; ", ...parts[1], ".", ...(losses.every((loss) => loss !== null) ? [` Loss of the texts: ${losses.map((loss) => loss.toFixed(3)).join(" and ")} nats a token${Math.abs(losses[0] - losses[1]) < STEADY ? ", the same" : ""}.`] : [])];
}

/** Mean loss in nats a token, null of one token or where it is not known. */
function meanLoss(run) {
  const known = Array.from({ length: run.T - 1 }, (_, i) => run.at("token:p", i + 1)?.[0] ?? NaN);
  return known.length && known.every((p) => p > 0) ? known.reduce((sum, p) => sum - Math.log(p), 0) / known.length : null;
}
