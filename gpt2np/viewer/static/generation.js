// A generation, choice by choice: what there was to choose from, what the filters took away, what was drawn.

import { bar, colour, directionOf, el, percent, quoted, tokenLabel } from "./drawing.js";
import { OPTIONS, penaltyTables } from "./penalties.js";
import { isFiltered, stepTable } from "./generation_steps.js";
import { rivalBeams } from "./rival_beams.js";

export function generationPanel(run, focus) {
  const told = run.generation,
    element = el("div", { class: "generation" }),
    n = told?.steps.length ?? 0;
  if (!n) {
    element.append(
      el(
        "p",
        { class: "absent" },
        `This run only read a text: no tokens were generated${run.missing.generation ? `: ${run.missing.generation}` : ". To see choices: gpt2np view TEXT --max-new-tokens 30 --temperature 0.8"}.`,
      ),
    );
    return { id: "generation", title: "Generation", element, empty: true, draw() {} };
  }
  const slider = el("input", {
    type: "range",
    min: 0,
    max: n - 1,
    step: 1,
    "aria-label": "step",
    oninput: () => go(Number(slider.value)),
  });
  const text = el("p", { class: "story", dir: directionOf(run.text) }),
    head = el("h3", {}),
    lists = el("div", { class: "lists" }),
    draw1 = el("div", { class: "draw" }),
    penalized = el("div", { class: "lists penalized" }),
    how = el("p", { class: "small" }),
    every = stepTable(run, go);
  const back = el(
      "button",
      { type: "button", "aria-label": "step before", onclick: () => go(focus.state.step - 1) },
      "‹",
    ),
    on = el(
      "button",
      { type: "button", "aria-label": "step after", onclick: () => go(focus.state.step + 1) },
      "›",
    );
  element.append(
    el(
      "p",
      { class: "intro" },
      "The text grows by one token a step; steps are counted from 0. Colour: how probable the chosen token was in the distribution that it was chosen from. ",
      el("span", { class: "on-screen" }, "Everything else on this page follows the step."),
    ),
    how,
    text,
    el("div", { class: "scrubber" }, back, slider, on),
    el("div", { class: "choices" }, every.element, el("div", { class: "choice" }, head, lists, draw1, penalized)),
  );
  const beams = told.sampling?.num_beams > 1, // whole texts are compared, nothing is drawn or filtered
    rivals = rivalBeams(run);
  how.textContent = howChosen(told, beams);

  /** Choose a step: the position that it was chosen at comes with it. */
  function go(step) {
    const legal = Math.min(Math.max(0, step), n - 1);
    focus.set({ step: legal, pos: told.steps[legal].pos });
  }

  const chosenWords = told.steps.map((step, i) => {
    const span = el(
      "button",
      {
        type: "button",
        class: "said",
        "aria-label": `step ${i}: ${quoted(run.word(step.id))} ${percent(step.p)}`,
        onclick: () => go(i),
      },
      tokenLabel(run.labels[step.pos + 1] ?? run.word(step.id), 60),
    );
    if (step.p !== null) span.style.boxShadow = `inset 0 -0.5em ${colour("chance", Math.sqrt(step.p) * 0.8)}`;
    return span;
  });
  text.append(
    ...[...run.labels.slice(0, told.n_prompt).map((token) => tokenLabel(token, 60)), ...chosenWords].flatMap(
      (word) => [el("wbr"), word],
    ),
  );

  function draw(state) {
    const { step } = state,
      choice = told.steps[step];
    slider.value = step;
    slider.setAttribute("aria-valuetext", `step ${step} of ${n}`);
    chosenWords.forEach((word, i) => {
      word.classList.toggle("later", i > step);
      word.setAttribute("aria-pressed", String(i === step));
      if (told.steps[i].p !== null)
        word.style.boxShadow = `inset 0 -0.5em ${colour("chance", Math.sqrt(told.steps[i].p) * 0.8)}`;
    });
    head.replaceChildren(
      `Step ${step}: `,
      tokenLabel(run.word(choice.id)),
      el("span", { class: "aside" }, choice.p === null ? "" : ` ${chancesTold(choice)},`),
      el("span", { class: "aside" }, ` chosen at position ${choice.pos}`),
    );
    const inside = choice.candidates.some(([id]) => id === choice.id),
      most = Math.max(...choice.candidates.map(([, p]) => p), choice.p ?? 0, 1e-9);
    const rows =
      inside || choice.p === null ? choice.candidates : [...choice.candidates, [choice.id, choice.p]];
    lists.replaceChildren(
      el(
        "div",
        {},
        el(
          "h4",
          {},
          choice.removals ? "Candidates, as they were drawn from" : "What the model found likeliest",
        ),
        rows.map(([id, p]) =>
          bar(tokenLabel(run.word(id)), p / most, percent(p), { kind: "chance", chosen: id === choice.id }),
        ),
      ),
      rivals?.element ?? funnel(choice),
    );
    rivals?.draw(step);
    every.draw(step);
    draw1.replaceChildren(...drawn(choice));
    penalized.replaceChildren(...penaltyTables(run, choice, beams ? ["log-probability", "log-probabilities"] : ["logit", "logits"]));
  }

  // What each option took out, in order.
  function funnel(choice) {
    if (!choice.removals)
      return el(
        "div",
        {},
        el("h4", {}, "What the filters removed"),
        el(
          "p",
          { class: "absent" },
          beams
            ? "A beam search filters nothing: it goes on with the likeliest whole texts. A file does not keep those that lost."
            : "Not recorded: generate(..., ledger=True), or --ledger FILE beside a saved trace.",
        ),
      );
    const steps = choice.removals.map(({ name, count, mass, ids }) =>
      el(
        "li",
        {},
        el("strong", {}, OPTIONS[name] ?? name),
        name === "temperature"
          ? " sharpens or flattens, and removes none"
          : count
            ? ` removed ${count.toLocaleString("en")} tokens with ${percent(mass)} of the probability: `
            : ` removed none${changes(choice, name)}`,
        el(
          "span",
          { class: "gone" },
          ids.flatMap((id, i) => [i ? " " : "", el("s", {}, tokenLabel(run.word(id), 14))]),
        ),
      ),
    );
    return el(
      "div",
      {},
      el("h4", {}, "What the filters removed"),
      steps.length ? el("ol", { class: "funnel" }, steps) : el("p", {}, "Nothing: no option is on."),
      el(
        "p",
        { class: "small" },
        `${choice.survivors === 1 ? "1 token was" : `${choice.survivors.toLocaleString("en")} tokens were`} left, with an entropy of ${choice.entropy.toFixed(2)} nats. The chosen one was number ${choice.rank + 1} of the model’s own ranking, logit ${choice.logit?.toFixed(2) ?? "−∞"}.`,
      ),
    );
  }

  /** How many logits a penalty changed that removed no token. */
  function changes(choice, name) {
    const { count } = choice.penalized?.find((penalty) => penalty.name === name) ?? {};
    return count ? `, and changed ${count.toLocaleString("en")} logit${count === 1 ? "" : "s"}: see below` : "";
  }

  // The number drawn, and the stretch of the chosen token between 0 and 1.
  function drawn(choice) {
    if (!choice.interval)
      return choice.removals
        ? [el("p", { class: "small" }, "Nothing was drawn: the likeliest token is taken (greedy).")]
        : [];
    const [low, high] = choice.interval,
      stretch = el("span", { class: "stretch" }),
      mark = el("span", { class: "drawn" });
    stretch.style.left = `${100 * low}%`;
    stretch.style.width = `${100 * (high - low)}%`;
    mark.style.left = `${100 * choice.uniform}%`;
    return [
      el("h4", {}, "The draw"),
      el(
        "div",
        {
          class: "number-line",
          role: "img",
          "aria-label": `drawn ${choice.uniform.toFixed(4)}, between ${low.toFixed(4)} and ${high.toFixed(4)}`,
        },
        stretch,
        mark,
      ),
      el(
        "p",
        { class: "small" },
        `All probabilities laid end to end from 0 to 1; the number drawn was ${choice.uniform.toFixed(4)}, and it fell into the stretch of `,
        tokenLabel(run.word(choice.id)),
        `, ${low.toFixed(4)} to ${high.toFixed(4)}.`,
      ),
    ];
  }
  return { id: "generation", title: "Generation", element, draw, go };
}

/** How probable the chosen token was, where filters changed that before them too. */
function chancesTold(choice) {
  return isFiltered(choice) ? `${percent(choice.own)} before filters, ${percent(choice.p)} after` : percent(choice.p);
}

/** How the tokens were chosen, in a sentence. */
function howChosen({ steps, sampling, stopped_by: stoppedBy }, beams) {
  if (!sampling)
    return `${steps.length} tokens chosen. A saved trace does not say how; probabilities are the model’s own.`;
  const greedy = (name, value) => name === "temperature" && value === 0;
  const options = Object.entries(sampling)
    .filter(([name, value]) => !(beams && greedy(name, value)))
    .map(([name, value]) => `${OPTIONS[name] ?? name.replaceAll("_", " ")} ${greedy(name, value) ? "0 (greedy)" : value}`);
  return `${steps.length} tokens chosen; ${options.join(", ")}; stopped by ${stoppedBy}.`;
}
