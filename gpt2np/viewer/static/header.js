// The head of the page: the model, the text as buttons, what comes next.

import { colour, el, percent, quoted, tokenLabel } from "./drawing.js";

/** Model, text and next token; `swap` changes between light and dark. */
export function buildHeader(run, focus, swap) {
  const words = run.tokens.map((token, pos) => wordButton(run, focus, token, pos));
  const ribbon = el("div", { class: "ribbon", role: "toolbar", "aria-label": "tokens of the text" }, words);
  const next = el("p", { class: "next" });
  const theme = roundButton("◐", "light or dark", swap);
  const help = roundButton("?", "help and glossary", () => focus.set({ panel: "glossary" }));
  const element = el(
    "header",
    { class: "top" },
    el(
      "div",
      { class: "title" },
      el("h1", {}, run.model.name),
      el("p", { class: "facts" }, modelText(run.model)),
      el("div", { class: "buttons" }, theme, help),
    ),
    el("div", { class: "text" }, ribbon, next),
  );

  function draw(state) {
    words.forEach((word, pos) => {
      const p = chanceOf(run, pos);
      word.setAttribute("aria-pressed", String(pos === state.pos));
      word.tabIndex = pos === state.pos ? 0 : -1;
      word.style.setProperty("--chance", p > 0 ? colour("chance", Math.sqrt(p)) : "transparent");
    });
    const likeliest = run.at("next:id", state.pos);
    if (!likeliest) return next.replaceChildren();
    next.replaceChildren(
      el("small", {}, "next token: "),
      tokenLabel(run.word(likeliest[0])),
      el("span", { class: "aside" }, ` ${percent(run.at("next:p", state.pos)[0])}`),
    );
  }

  /** Bring the chosen word into sight; the keyboard's focus follows it if it was in the text. */
  function reveal(pos) {
    if (ribbon.scrollHeight > ribbon.clientHeight) {
      ribbon.scrollTop = words[pos].offsetTop - ribbon.clientHeight / 2;
    }
    if (ribbon.contains(document.activeElement)) words[pos].focus({ preventScroll: true });
  }
  return { element, draw, reveal };
}

function wordButton(run, focus, token, pos) {
  const p = chanceOf(run, pos);
  return el(
    "button",
    {
      type: "button",
      class: "word",
      "data-pos": pos,
      tabindex: "-1",
      "aria-label": `position ${pos}: ${quoted(token)}${p > 0 ? `, probability ${percent(p)}` : ""}`,
      title: p > 0 ? `position ${pos}, probability ${percent(p)}` : `position ${pos}`,
      onclick: () => focus.set({ pos }),
    },
    tokenLabel(token, 30),
  );
}

// What the model gave to the token at a position before it read it; the first has none.
function chanceOf(run, pos) {
  return run.at("token:p", pos)?.[0];
}

function modelText(model) {
  const several = (n, name) => `${n} ${name}${n === 1 ? "" : "s"}`;
  const facts = [
    several(model.n_layer, "layer"),
    several(model.n_head, "head") +
      (model.n_kv_head < model.n_head ? ` in ${several(model.n_kv_head, "group")}` : ""),
    `n_embd ${model.n_embd}`,
    `d_mlp ${model.d_mlp.toLocaleString("en")}`,
    `vocabulary ${model.vocab.toLocaleString("en")}`,
  ];
  if (model.ran < model.n_layer) facts.push(`stopped after layer ${model.ran - 1}`);
  if (model.edits.length) facts.push(`edited: ${model.edits.slice(0, 3).join(", ")}`);
  return facts.join(" · ");
}

function roundButton(mark, label, onclick) {
  return el("button", { type: "button", class: "plain-button", onclick, "aria-label": label }, mark);
}
