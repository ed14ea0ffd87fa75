// Which head is what: layers down, heads across, coloured by a score; and what a head pushes.

import { colour, darkOn, digits, el, hideTip, marked, scaleKey, showTip, signed, tokenLabel } from "./drawing.js";

const MEANING = {
  previous: "mean attention to the token before: a previous-token head",
  first: "mean attention to the first token: a head that rests there",
  duplicate: "mean attention to an earlier occurrence of the same token",
  induction: "mean attention to what came after an earlier occurrence: an induction head",
};

export function headFinder(run, focus) {
  const kinds = (run["head scores"] ?? []).map((score) => ({
    ...score,
    title: `${score.name} (${score.where})`,
    text: MEANING[score.name],
    most: 1,
  }));
  for (const [name, values] of Object.entries(run["head statistics"] ?? {})) {
    kinds.push({
      name,
      where: "in this text",
      title: name,
      values,
      text:
        name === "entropy"
          ? "entropy of the pattern in nats: how widely the head looks"
          : "how many positions back the head looks",
      most: null,
    });
  }
  const element = el("div", { class: "finder" });
  if (!kinds.length) return { element, draw() {} };
  let chosen = Math.max(
    0,
    kinds.findIndex((kind) => kind.name === "previous"),
  );
  const select = el(
    "select",
    {
      "aria-label": "score",
      onchange: (event) => {
        chosen = Number(event.target.value);
        focus.told(new Set()); // the caption too is drawn anew
      },
    },
    kinds.map((kind, i) => el("option", { value: i, selected: i === chosen }, kind.title)),
  );
  const grid = el("div", { class: "grid", role: "group", "aria-label": "heads by score" }),
    told = el("p", { class: "small" }),
    best = el("p", {}),
    pushes = el("div", { class: "pushes" });
  element.append(
    el("h3", {}, "Find a head"),
    el(
      "div",
      { class: "two" },
      el("div", {}, el("p", { class: "on-screen" }, el("label", {}, "Colour by ", select)), told, grid),
      el("div", {}, el("h4", {}, "Highest"), best, pushes),
    ),
  );
  grid.style.setProperty("--columns", run.H);

  function draw(state) {
    const kind = kinds[chosen],
      flat = kind.values.flat().map((value) => value ?? 0),
      most = kind.most ?? Math.max(...flat, 1e-9);
    told.textContent = kind.text;
    const number = (x) => (most > 1 ? digits(x, 2) : x.toFixed(2));
    grid.replaceChildren(
      el("span", { class: "side" }, "head"),
      ...kind.values[0].map((_, head) => el("span", { class: "over" }, run.H <= 16 || head % 2 === 0 ? String(head) : "")),
      ...kind.values.flatMap((row, layer) => [
        el("span", { class: "side" }, `layer ${layer}`),
        ...row.map((given, head) => {
          const value = given ?? NaN; // null: not a number
          const here = layer === state.layer && head === state.head,
            share = Math.sqrt(Math.max(0, value) / most);
          const cell = el(
            "button",
            {
              type: "button",
              class: darkOn("share", share) ? "light-ink" : "dark-ink",
              "aria-pressed": String(here),
              "aria-label": `layer ${layer} head ${head}: ${value.toFixed(2)}`,
              onclick: () => focus.set({ layer, head }),
              onmousemove: (event) => showTip(event, `layer ${layer}, head ${head}: ${value.toFixed(3)}`),
              onmouseleave: hideTip,
            },
            run.H <= 16 ? value.toFixed(2).replace(/^0/, "") : "",
          );
          cell.style.background = colour("share", share);
          return marked(cell, run.marks?.head(layer, head));
        }),
      ]),
      el("span", { class: "grid-key" }, scaleKey("share", "0", number(most / 4), number(most)), el("small", {}, " by the square root")),
    );
    const order = flat
      .map((value, i) => [value, Math.floor(i / run.H), i % run.H])
      .sort((a, b) => b[0] - a[0])
      .slice(0, 5);
    best.replaceChildren(
      ...order.flatMap(([value, layer, head], i) => [
        i ? ", " : "",
        el(
          "button",
          { class: "link", type: "button", onclick: () => focus.set({ layer, head }) },
          `layer ${layer} head ${head}`,
        ),
        ` ${value.toFixed(2)}`,
      ]),
    );
    const raised = run["heads raised"],
      lowered = run["heads lowered"];
    if (raised) {
      const words = (told) =>
        told.ids[state.layer][state.head].flatMap((id, i) => [
          i ? ", " : "",
          tokenLabel(run.word(id)),
          ` ${signed(told.values[state.layer][state.head][i] ?? NaN)}`,
        ]);
      pushes.replaceChildren(
        el("h4", {}, `What layer ${state.layer} head ${state.head} does to the logits at the last position`),
        el("p", {}, "raises ", ...words(raised)),
        el("p", {}, "lowers ", ...words(lowered)),
      );
    }
  }
  return { element, draw };
}
