// The head of the page: the model, the text as buttons, what comes next.

import { colour, el, percent, quoted, tokenLabel } from "./drawing.js";
import { isFiltered } from "./generation_steps.js";

const ROW_GAP = 3; // pixels between two rows of words
const HANDOUT_LINES = 3;

/** Model, text and next token; `swap` changes between light and dark, `tour` starts the tour. */
export function buildHeader(run, focus, swap, tour) {
  const words = run.labels.map((token, pos) => wordButton(run, focus, token, pos));
  const ribbon = el("div", { class: "ribbon", role: "toolbar", "aria-label": "tokens of the text" }, words);
  const last = lastChosen(run);
  const gap = el("span", { class: "left-out" });
  if (last) ribbon.append(last);
  const all = el("button", { type: "button", class: "link show-all", hidden: true, onclick: () => open(!whole) });
  let whole = false;
  const next = el("p", { class: "next" });
  const theme = roundButton("◐", "light or dark", swap);
  const guided = el("button", { type: "button", class: "tour-start", onclick: tour }, "Tour");
  const help = roundButton("?", "help and glossary", () => focus.set({ panel: "glossary" }));
  const element = el(
    "header",
    { class: "top" },
    el(
      "div",
      { class: "title" },
      el("h1", { title: run.model.name }, shortName(run.model.name)),
      el("p", { class: "facts", title: modelText(run.model) }, modelText(run.model)),
      el("div", { class: "buttons" }, guided, theme, help),
    ),
    written(run),
    el("div", { class: "text" }, el("div", { class: "ribbon-holder" }, ribbon, all), next),
  );

  function open(wanted) {
    whole = wanted;
    fold();
    reveal(focus.state.pos);
  }

  /** Whole rows of words only: three, on a narrow screen two; a button has the rest. */
  function fold() {
    const { scrollTop } = ribbon, // which is lost where all of it has room for a moment
      folded = isFolded();
    ribbon.style.maxHeight = "none";
    const row = words[0].getBoundingClientRect().height + ROW_GAP;
    const rows = Math.round((ribbon.scrollHeight - ROW_GAP) / row);
    const most = window.innerWidth <= 640 ? 2 : 3;
    all.hidden = rows <= most;
    all.textContent = whole ? "show fewer rows" : `${run.T} tokens, show all`;
    if (rows > most && !whole) ribbon.style.maxHeight = `${most * row}px`;
    ribbon.scrollTop = scrollTop;
    if (isFolded() && !folded) reveal(focus.state.pos);
  }

  /** For the tour's handout: a few rows from the first word on, and in the middle a word for all that have no room; then whole again. */
  function shorten(short) {
    gap.remove();
    for (const word of words) word.hidden = false;
    const top = words[0].offsetTop,
      rowOf = (word) => Math.round((word.offsetTop - top) / words[0].offsetHeight),
      end = last ?? words.at(-1),
      room = HANDOUT_LINES - 1;
    if (!short || rowOf(end) <= room) return;
    const begin = words.findIndex((word) => rowOf(word) > 0) - 1; // the gap has the place of the last in the first row
    words.slice(begin).forEach((word) => (word.hidden = true));
    words[begin].before(gap);
    let from = words.length;
    const tell = () => (gap.textContent = `… ${from - begin} tokens …`);
    do {
      words[--from].hidden = false;
      tell();
    } while (rowOf(end) <= room);
    words[from++].hidden = true;
    tell();
  }

  function isFolded() {
    return ribbon.style.maxHeight.endsWith("px");
  }

  function draw(state) {
    words.forEach((word, pos) => {
      const p = chanceOf(run, pos);
      word.setAttribute("aria-pressed", String(pos === state.pos));
      word.tabIndex = pos === state.pos ? 0 : -1;
      word.style.setProperty("--chance", p > 0 ? colour("chance", Math.sqrt(p)) : "transparent");
    });
    foretell(state);
    fold(); // once it is known how much room is left
  }

  /** What comes next, and what was chosen where that is another token. */
  function foretell(state) {
    const likeliest = run.at("next:id", state.pos);
    if (!likeliest) return next.replaceChildren();
    const step = run.generation?.steps.find((each) => each.pos === state.pos);
    const other = step && step.id !== likeliest[0],
      chosen = other ? ["chosen: ", step.id, step.own ?? step.p] : null,
      filtered = other && isFiltered(step);
    const first = [["next", el("span", { class: "on-wide" }, " token"), ": "], likeliest[0], run.at("next:p", state.pos)[0]];
    next.replaceChildren(
      ...[chosen, chosen ? ["likeliest: ", ...first.slice(1)] : first].filter(Boolean).map(([name, id, p], i) =>
        el(
          "span",
          { class: i ? "second-choice" : "" },
          el("small", {}, name),
          tokenLabel(run.word(id)),
          el("span", { class: "aside" }, ` ${percent(p)}`),
        ),
      ),
      ...(filtered ? [el("small", { class: "second-choice" }, `before filters; after them `, tokenLabel(run.word(step.id)), ` ${percent(step.p)}`)] : []),
    );
  }

  /** Bring the chosen word into sight; the keyboard's focus follows it if it was in the text. */
  function reveal(pos) {
    if (ribbon.scrollHeight > ribbon.clientHeight) {
      const row = words[0].getBoundingClientRect().height + ROW_GAP;
      const above = Math.round((words[pos].offsetTop - words[0].offsetTop) / row) - 1;
      ribbon.scrollTop = above > 0 ? above * row + ROW_GAP : 0;
    }
    if (ribbon.contains(document.activeElement)) words[pos].focus({ preventScroll: true });
  }
  return { element, draw, reveal, shorten };
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

/** The text as it was written, where its tokens are parts of characters. */
function written(run) {
  if (!run.written) return [];
  const parts = run.labels.some((label) => label.includes("⁄₃")) ? "²⁄₃ behind a character: the second of the three tokens that are that character together." : "²⁄₂ behind a character: the second of the two tokens that are that character together.";
  return [el("p", { class: "written", dir: "auto" }, run.written), el("p", { class: "small parts on-wide" }, parts)];
}

/** The token that was chosen last, if it is no position of the run: it was chosen, and never read. */
function lastChosen(run) {
  const id = run.generation?.steps.find((step) => step.pos === run.T - 1)?.id;
  if (id === undefined) return null;
  return el("span", { class: "word last", title: "chosen last; the model has not read it" }, tokenLabel(run.word(id), 30));
}

/** A model's name; of a folder its last part. */
export function shortName(name) {
  const isPath = /^([/\\~.]|[A-Za-z]:[/\\])/.test(name) || name.split("/").length > 2;
  return isPath ? (name.split(/[/\\]/).filter(Boolean).at(-1) ?? name) : name;
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
