// What is typed and pressed on a live page: the text, a token to swap, a generation.

import { directionOf, el, percent, tokenLabel } from "./drawing.js";
import { saveRecord } from "./live_saving.js";

const FIELDS = {
  most: { name: "tokens", value: "20", limits: "a whole number from 1 to 10000", read: (x) => whole(x, 1, 10000) },
  temperature: { name: "temperature", value: "0.8", limits: "0, or from 1e-30 to 1e30", read: (x) => (Number(x) === 0 ? number(x, 0, 0) : number(x, 1e-30, 1e30)) },
  top_k: { name: "top-k", value: "40", limits: "a whole number; 0 is all", read: (x) => whole(x, 0, 1e9) },
  top_p: { name: "top-p", value: "0.95", limits: "above 0, at most 1", read: (x) => number(x, 1e-9, 1) },
  seed: { name: "seed", value: "1", limits: "a whole number from 0 on", read: (x) => (/^\d{1,40}$/.test(x.trim()) ? x.trim() : null) },
};

function number(text, low, high) {
  const x = Number(text);
  return text.trim() && x >= low && x <= high ? x : null;
}

function whole(text, low, high) {
  const x = number(text, low, high);
  return Number.isInteger(x) ? x : null;
}

/** The box that is typed in; `live.type(text)` hears of it. */
export function buildTextBox(text, live) {
  const box = el("textarea", { rows: "2", spellcheck: "false", autocapitalize: "off", "aria-label": "text", dir: "auto" });
  box.value = text;
  let waiting = 0;
  box.addEventListener("input", () => {
    live.asked();
    clearTimeout(waiting);
    waiting = setTimeout(() => live.type(box.value), 12);
  });
  return { element: el("label", { class: "typed" }, el("span", {}, "Type any text"), box), set: (value) => (box.value = value) };
}

/** One token in the place of another; `live.swap(pos, text)` and `live.swapFor(pos, id)` do it. */
export function buildSwap(live) {
  const what = el("span", {}),
    box = el("input", { type: "text", class: "short", "aria-label": "token to put there", dir: "auto" }),
    others = el("span", { class: "others" });
  const swap = () => box.value && live.swap(live.chosen().pos, box.value);
  box.addEventListener("keydown", (event) => event.key === "Enter" && swap());
  const element = el(
    "div",
    { class: "actions" },
    el("span", {}, "Swap ", what, " for "),
    box,
    el("button", { type: "button", class: "action", onclick: swap }, "Swap"),
    others,
  );

  function draw(run, { pos }) {
    what.replaceChildren(tokenLabel(run.labels[pos]), ` (${pos})`);
    const likely = pos ? [...run.at("next:id", pos - 1)].map((id, i) => [id, run.at("next:p", pos - 1)[i]]) : [];
    others.replaceChildren(
      ...likely
        .filter(([id]) => id !== run.ids[pos])
        .slice(0, 5)
        .map(([id, p]) =>
          el("button", { type: "button", class: "action", title: percent(p), onclick: () => live.swapFor(pos, id) }, tokenLabel(run.word(id))),
        ),
    );
  }
  return { element, draw };
}

/** Options of a generation and its button; `live.generate(options)` runs one, `live.stop()` ends it. */
export function buildGenerate(live) {
  const inputs = Object.fromEntries(
    Object.entries(FIELDS).map(([key, { name, value }]) => [key, el("input", { type: "text", inputmode: "decimal", class: "short", value, "aria-label": name })]),
  );
  const go = el("button", { type: "button", class: "action strong", onclick: press }, "Generate"),
    told = el("span", { class: "small", role: "status" }),
    story = el("p", { class: "growing", hidden: true }),
    command = el("code", { class: "command" }),
    save = el("button", { type: "button", class: "action", hidden: true, onclick: () => saveRecord(record) }, "Save every choice as JSON");
  let running = false,
    record = null; // of the last generation
  const fields = Object.entries(FIELDS).map(([key, { name }]) => el("label", {}, name, inputs[key]));
  const element = el("div", { class: "generating" }, el("div", { class: "actions" }, go, fields, save, told), story, command);

  function options() {
    const read = Object.entries(FIELDS).map(([key, field]) => [key, field.read(inputs[key].value)]);
    const wrong = read.find(([, value]) => value === null);
    if (wrong) throw new Error(`${FIELDS[wrong[0]].name}: “${inputs[wrong[0]].value}” is not possible (${FIELDS[wrong[0]].limits})`);
    return Object.fromEntries(read);
  }

  async function press() {
    if (running) return live.stop();
    told.textContent = command.textContent = "";
    save.hidden = true;
    try {
      const chosen = options();
      running = true;
      go.textContent = "Stop";
      story.hidden = false;
      story.dir = directionOf(live.run.text);
      story.replaceChildren(el("span", { class: "aside" }, "…"));
      const made = await live.generate(chosen, grow);
      told.textContent = made.said;
      command.textContent = made.command;
      record = made.record;
      save.hidden = !record;
    } catch (error) {
      told.textContent = error.message;
    }
    story.hidden = true;
    running = false;
    go.textContent = "Generate";
  }

  /** A token has been chosen: it joins the others. */
  function grow({ entry, token }) {
    if (entry.step === 0) story.replaceChildren();
    const word = tokenLabel(token, 60);
    word.title = percent(entry.probability);
    story.append(el("wbr"), word);
  }
  return { element };
}

/** The command line that generates the same; only a text without hidden characters can be typed there, and no parts but heads can be off. */
export function commandOf(text, options, model, off) {
  if (off.mlps?.length || off.positions?.length) return "";
  if (/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/.test(text)) return "";
  const inQuotes = (words) => `'${words.replaceAll("'", "'\\''")}'`,
    { most, temperature, top_k, top_p, seed } = options;
  const sampled = temperature ? ` --top-k ${top_k} --top-p ${top_p} --seed ${seed}` : "",
    heads = (off.heads ?? []).map(([layer, head]) => ` --zero-head ${layer}.${head}`).join(""),
    prompt = text.startsWith("-") ? ` -- ${inQuotes(text)}` : "";
  return `gpt2np generate${prompt ? "" : ` ${inQuotes(text)}`} --max-new-tokens ${most} --temperature ${temperature}${sampled}${heads} --model ${/^[\w./-]+$/.test(model) ? model : inQuotes(model)}${prompt}`;
}
