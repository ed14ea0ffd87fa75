// All steps of a generation at a glance: a line each, with what was chosen, how probable it was, and what filters left.

import { el, percent, quoted, tokenLabel } from "./drawing.js";
import { OPTIONS } from "./penalties.js";

const FILTERS = ["top_k", "top_p", "min_p"]; // what is told even where it removes nothing
const OTHERS = 2; // likeliest other candidates that a line names

/** The table of all steps: {element, draw(step)}; `go(step)` opens one. */
export function stepTable(run, go) {
  const { steps } = run.generation,
    columns = columnsOf(run),
    lines = steps.map((step, i) => lineOf(run, step, i, columns, go));
  const body = el("tbody", { onclick: clicked, onkeydown: pressed }, lines),
    table = el("table", { class: "steps" }, headerOf(columns), body),
    box = el("div", { class: "steps-box scroll" }, table),
    more = el("span", { class: "on-screen" });
  const element = el("div", { class: "every-step" }, el("h3", {}, "Every step"), el("p", { class: "small" }, legendOf(columns), more), box);

  function clicked(event) {
    const line = event.target.closest("tr");
    if (line) go(lines.indexOf(line));
  }

  /** Up and down go to the next line, as in a list. */
  function pressed(event) {
    const at = lines.indexOf(event.target.closest("tr")),
      to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: lines.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    go(to);
  }

  function draw(chosen) {
    lines.forEach((line, i) => {
      const button = line.querySelector("button");
      line.classList.toggle("is-open", i === chosen);
      button.setAttribute("aria-pressed", String(i === chosen));
      button.tabIndex = i === chosen ? 0 : -1;
    });
    if (body.contains(document.activeElement)) lines[chosen].querySelector("button").focus({ preventScroll: true });
    const hidden = box.scrollHeight > box.clientHeight + 1;
    more.hidden = !hidden;
    if (!hidden) return;
    more.textContent = ` ${steps.length} steps: the list scrolls.`;
    reveal(lines[chosen]);
  }

  /** Bring a line into sight, inside the box only. */
  function reveal(line) {
    const { top, bottom } = line.getBoundingClientRect(),
      above = table.tHead.getBoundingClientRect().bottom,
      below = box.getBoundingClientRect().top + box.clientHeight;
    if (top < above) box.scrollTop -= above - top;
    else if (bottom > below) box.scrollTop += bottom - below;
  }
  return { element, draw };
}

/** Columns behind that of the token: {group, name, title, kind, of(step)}, each only where it is known of some step. */
function columnsOf(run) {
  const { steps, sampling } = run.generation,
    known = (name) => steps.some((step) => step[name] != null);
  const chance = (name, said, title) => ({ group: "probability", name: said, title, kind: "chance", of: (step) => step[name] });
  const filtered = sampling && known("p") && steps.some((step) => step.own == null || isFiltered(step));
  const columns = [];
  if (known("own")) columns.push(chance("own", filtered ? "before filters" : "of the model", "as the model gave it"));
  if (filtered) columns.push(chance("p", "after", "as it was chosen from"));
  if (known("rank")) columns.push({ name: "rank", title: "its number in the model’s own ranking: 1 is the likeliest", of: (step) => count(step.rank + 1) });
  columns.push(...leftColumns(run));
  if (known("entropy")) columns.push({ name: "entropy", title: "of what it was chosen from, after all filters, in nats", of: (step) => step.entropy.toFixed(2) });
  if (known("uniform")) columns.push({ name: "number drawn", kind: "wide", of: (step) => step.uniform.toFixed(4) });
  if (steps.some(({ candidates }) => candidates.length)) columns.push({ name: "likeliest others", kind: "wide others", of: (step) => othersOf(run, step) });
  return columns;
}

/** Whether options changed the probability of the chosen token. */
export function isFiltered({ own, p }) {
  return own != null && p != null && Math.abs(p - own) > 1e-6 * own;
}

/** How many candidates each filter left, and how many had any chance in the end where that is fewer. */
function leftColumns(run) {
  const { steps, sampling } = run.generation,
    vocab = run.model.vocab,
    told = steps.filter((step) => step.removals);
  if (!told.length || !sampling) return [];
  const names = [...new Set(told.flatMap(({ removals }) => removals.filter(({ name, count: n }) => n || FILTERS.includes(name)).map(({ name }) => name)))];
  const group = `left of ${count(vocab)} after`;
  const columns = names.map((name) => ({
    group,
    name: [el("span", { class: "unbroken" }, OPTIONS[name] ?? name), name in sampling ? ` ${sampling[name]}` : ""],
    of: (step) => (step.removals ? count(leftAfter(step, name, vocab)) : "–"),
  }));
  const last = names.at(-1);
  if (last && told.every((step) => leftAfter(step, last, vocab) === step.survivors)) return columns;
  if (!last && !sampling.temperature) return []; // the likeliest is taken, whatever is left
  return [...columns, { name: "candidates", title: "tokens with a probability above 0, in the end", of: (step) => (step.removals ? count(step.survivors) : "–") }];
}

/** How many tokens were left once a filter had been applied. */
export function leftAfter({ removals }, name, vocab) {
  const at = removals.findIndex((removal) => removal.name === name);
  return removals.slice(0, at + 1).reduce((left, { count: gone }) => left - gone, vocab);
}

function othersOf(run, { id, candidates }) {
  return candidates
    .filter(([other]) => other !== id)
    .slice(0, OTHERS)
    .flatMap(([other, p]) => [el("span", { class: "unbroken" }, tokenLabel(run.word(other), 12), ` ${percent(p)}`), "  "]);
}

function lineOf(run, step, i, columns, go) {
  const open = el("button", { type: "button", "aria-label": `open step ${i}: ${quoted(run.word(step.id))}` }, String(i));
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, open),
    el("td", { class: "word-chosen" }, tokenLabel(run.word(step.id), 16)),
    columns.map(({ kind, of }) => {
      const value = of(step);
      return kind === "chance" ? chanceCell(value) : el("td", { class: kind ?? null }, value);
    }),
  );
}

/** A probability and its length as a bar. */
function chanceCell(p) {
  const bar = el("span", { class: "meter" });
  bar.style.width = `${100 * (p ?? 0)}%`;
  return el("td", { class: "chance" }, percent(p), bar);
}

/** Two rows: columns of a group have a name together. */
function headerOf(columns) {
  const above = [],
    below = [];
  for (const { group, name, title, kind } of [{ name: "step" }, { name: "token" }, ...columns]) {
    if (!group) above.push(el("th", { scope: "col", rowspan: 2, class: kind ?? null, title }, name));
    else {
      const last = above.at(-1);
      if (last?.dataset.group === group) last.colSpan++;
      else above.push(el("th", { scope: "colgroup", "data-group": group, class: "group" }, group));
      below.push(el("th", { scope: "col", title }, name));
    }
  }
  return el("thead", {}, el("tr", {}, above), el("tr", {}, below));
}

function legendOf(columns) {
  const has = (name) => columns.some((column) => column.name === name);
  return [
    el("span", { class: "on-screen" }, "Click a line, or go through them with ↑ and ↓: the step opens. "),
    has("rank") ? "Rank: 1 is what the model itself found likeliest. " : "",
    has("entropy") ? "Entropy, after all filters, in nats: how open the choice was; 0 is certain, 0.69 is a coin toss between two." : "",
  ];
}

function count(n) {
  return n.toLocaleString("en");
}
