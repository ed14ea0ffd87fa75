// The live page: what is typed, swapped, generated or switched off goes to the engine, and what comes back is shown.

import { Run } from "./run_data.js";
import { el, percent, tokenLabel } from "./drawing.js";
import { build } from "./main.js";
import { PANELS } from "./tabs.js";
import { EngineClient } from "./live_engine.js";
import { aligned, changedTokens, meanLossOf } from "./live_difference.js";
import { changesPanel } from "./live_changes.js";
import { Marks, buildLegend } from "./live_marks.js";
import { buildSwitches } from "./live_switches.js";
import { buildGenerate, buildSwap, buildTextBox, commandOf } from "./live_controls.js";
import { generationRecord } from "./live_saving.js";

const PAUSE = 1200; // milliseconds without a key, after which what is typed is compared with what was there
const NOTHING = { heads: [], mlps: [], positions: [] };

/** Whether nothing is off. */
function isWhole(off) {
  return Object.values(off).every((some) => !some.length);
}

class Live {
  constructor(facts) {
    this.facts = facts;
    this.engine = new EngineClient();
    this.off = NOTHING;
    this.ids = facts.ids;
    this.turn = 0;
    this.busy = 0;
    this.generating = null; // what is being generated, as a promise
    this.run = null; // what is shown
    this.typedAt = -Infinity;
    this.paused = null; // what was shown before the typing began
    this.before = null; // what it is compared with
    this.why = "";
    this.whole = null; // of the same tokens, nothing off
    this.text = buildTextBox(facts.text, this);
    this.swapping = buildSwap(this);
    this.switches = buildSwitches(facts.config, this);
    this.legend = buildLegend(() => this.mark(true));
    this.status = el("p", { class: "small status", role: "status" }, "Unpacking the model …");
    this.holder = el("div", { class: "alive" });
    const { glossary, weights, ...others } = PANELS; // the weights stay as they are
    this.panels = { ...others, changes: changesPanel(() => this), glossary };
    this.element = el("section", { class: "studio", "aria-label": "try it" }, this.text.element, this.status);
    this.element.append(this.swapping.element, buildGenerate(this).element, this.switches.element);
  }

  // -- what is asked for -----------------------------------------------------------------------------

  /** A key was pressed: what is measured begins here. */
  asked() {
    asked();
  }

  /** Another text. */
  type(text) {
    if (!this.paused || performance.now() - this.typedAt > PAUSE) this.paused = this.run;
    this.typedAt = performance.now();
    return this.read({ text }, "typing");
  }

  /** One token for another, given as text: a space in front is added where the old token had one. */
  async swap(pos, text) {
    const spaced = this.run.tokens[pos].startsWith(" ") && !text.startsWith(" ") ? ` ${text}` : text,
      found = await this.engine.ask("tokenize", { text: spaced });
    if (found.ids.length === 1) return this.swapFor(pos, found.ids[0]);
    this.status.textContent = `That is ${found.ids.length} tokens: ${found.tokens.map((token) => `“${token}”`).join(" ")}. A swap needs one.`;
  }

  async swapFor(pos, id) {
    const ids = this.ids.slice();
    ids[pos] = id;
    asked();
    this.text.set(await this.engine.ask("decode", { ids }));
    return this.read({ ids }, "swap");
  }

  /** Other parts off. What is being generated ends there, and its tokens stay. */
  async switchOff(off) {
    this.off = off;
    this.switches.draw();
    this.stop("a part was switched");
    await this.generating;
    return this.read({ ids: this.ids }, "switch");
  }

  lossesWith(off) {
    return this.engine.ask("losses", { ids: this.run.ids, off });
  }

  /** Tokens after the text, and then the run over all of them. Returns {command, record, said}: the same as a command line, as a record, and why it ended. */
  generate(options, part) {
    const made = this.generated(options, part);
    this.generating = made.catch(() => null).finally(() => (this.generating = null));
    return made;
  }

  async generated(options, part) {
    if (this.element.classList.contains("wrong")) throw new Error("This text cannot be run: see above.");
    const mine = ++this.turn,
      { ids, off } = this,
      room = this.facts.config.n_positions - ids.length,
      most = Math.min(options.most, room);
    this.ended = "";
    if (room <= 0) throw new Error(`The context of this model is full: ${ids.length} tokens.`);
    const prompt = await this.engine.ask("decode", { ids });
    const made = await this.working(this.engine.ask("generate", { ids, options: { ...options, most }, off }, part)),
      n = made.ledger.length,
      chosen = `${n} ${n === 1 ? "token" : "tokens"}`;
    if (mine !== this.turn) return { command: "", record: null, said: `Stopped: the text was changed, and the ${chosen} generated so far are gone.` };
    if (!n) throw new Error(this.ended ? `Stopped, for ${this.ended}: nothing was generated yet.` : "Nothing was generated.");
    this.ids = made.ids;
    this.whole = null;
    this.text.set(await this.engine.ask("decode", { ids: made.ids }));
    this.compare("generation", null);
    this.switches.draw(true);
    this.show(made.run, { panel: "generation", pos: ids.length - 1, step: 0 });
    const full = n === room && n < options.most;
    return {
      command: commandOf(prompt, { ...options, most: n }, this.facts.page.model.name, off),
      record: await generationRecord(this.engine, this.facts, made, options),
      said: this.ended ? `Stopped after ${chosen}, which stay: ${this.ended}.` : full ? `The context of this model is full: ${chosen} were the most.` : "",
    };
  }

  /** End a generation after the token that it is at; `why` is told. */
  stop(why = "") {
    this.ended = why;
    this.engine.stop();
  }

  // -- what comes back ---------------------------------------------------------------------------------

  /** Run a text or tokens, and show it: first what is there soon, then all of it. */
  async read(request, why) {
    this.stop(); // what is being generated belongs to another text
    const mine = ++this.turn,
      off = request.text === undefined ? this.off : (this.off = { ...this.off, positions: [] }),
      isOff = !isWhole(off);
    const shown = this.run ? { panel: this.focus.state.panel, pos: this.isAtEnd() ? null : this.focus.state.pos } : {};
    const ask = (given, parts, part) => this.working(this.engine.ask("run", { ...given, off: parts, shown, series: "run" }, part));
    asked();
    try {
      let whole = this.whole;
      if (isOff && (request.text !== undefined || !whole || String(whole.ids) !== String(request.ids))) {
        const found = await ask(request, NOTHING);
        if (!found || mine !== this.turn) return;
        whole = new Run(found);
      }
      let mineShown = null;
      const soon = (part) => {
        if (mine !== this.turn) return;
        this.compare(why, isOff ? whole : null);
        this.show(part);
        this.ids = part.header.ids;
        mineShown = this.run;
      };
      const result = await ask(isOff && request.text !== undefined ? { ids: whole.ids } : request, off, soon);
      if (!result || this.run !== mineShown) return;
      this.run.take(result);
      this.renew();
      if (mine !== this.turn) return;
      this.whole = isOff ? whole : this.run;
      this.switches.draw(why !== "switch");
    } catch (error) {
      performance.clearMarks("asked");
      if (mine !== this.turn) return;
      this.status.textContent = error.message;
      this.element.classList.add("wrong");
    }
  }

  async working(promise) {
    this.busy++;
    try {
      return await promise;
    } finally {
      this.busy--;
    }
  }

  /** Choose what the next run is compared with. */
  compare(why, whole) {
    this.before = whole ?? (why === "typing" ? this.paused : this.run);
    if (why !== "typing") this.paused = null;
    this.why = {
      switch: whole ? "the whole model" : "the run before",
      typing: whole ? "the whole model" : "the text before",
      swap: whole ? "the whole model" : "the text before the swap",
      generation: "the run before",
    }[why];
  }

  show(result, change = {}) {
    const last = this.run,
      scrolled = scrollY,
      atEnd = last && this.isAtEnd(),
      state = last ? { ...this.focus.state } : {};
    this.run = new Run(result);
    this.mark();
    if (last && atEnd) state.pos = this.run.T - 1; // the end stays the end
    this.listening?.abort();
    this.listening = new AbortController();
    this.holder.style.minHeight = `${this.holder.offsetHeight}px`; // no jump while it is built anew
    const { focus, renew } = build(this.run, this.holder, { made: this.panels, before: { ...state, ...change }, signal: this.listening.signal });
    this.holder.style.minHeight = "";
    if (last) scrollTo(scrollX, scrolled);
    this.focus = focus;
    this.renew = renew;
    const note = el("p", { class: "small then" }),
      follow = (now) => {
        this.swapping.draw(this.run, now);
        note.replaceChildren(...this.nextBefore(now.pos));
        this.legend.draw(this, now);
        this.frame();
      };
    this.holder.querySelector(".text").append(note);
    this.holder.querySelector("main").prepend(this.legend.element);
    focus.on(follow);
    follow(focus.state);
    this.tell();
    drawn();
  }

  /** Whether the last position is chosen. */
  isAtEnd() {
    return this.focus.state.pos === this.run.T - 1;
  }

  /** What the run before held likeliest after the same token. */
  nextBefore(pos) {
    const { before, run, why } = this;
    if (!before) return [];
    const was = aligned(before, run)[pos];
    if (was === null) return ["a new token"];
    const [id] = before.at("next:id", was);
    return [`${why}: `, tokenLabel(before.word(id)), ` ${percent(before.at("next:p", was)[0])}`];
  }

  /** Let the panels mark what changed, if that is wanted; `again` draws what is shown. */
  mark(again = false) {
    this.run.marks = this.before && this.legend.wanted() ? new Marks(this.before, this.run) : null;
    if (again) this.focus.told(new Set());
  }

  /** Frame the tokens that are new or different. */
  frame() {
    const changed = this.run.marks ? changedTokens(this.before, this.run) : [];
    for (const word of this.holder.querySelectorAll(".word[data-pos]")) word.classList.toggle("changed", changed.includes(Number(word.dataset.pos)));
  }

  tell() {
    const { run, off } = this,
      loss = meanLossOf(run),
      n = off.heads.length + off.mlps.length + off.positions.length;
    const parts = [`${run.T} ${run.T === 1 ? "token" : "tokens"} of at most ${this.facts.config.n_positions}`];
    if (loss !== null) parts.push(`loss ${loss.toFixed(3)} nats a token`);
    if (n) parts.push(`${n} ${n === 1 ? "part" : "parts"} off`);
    parts.push(`forward pass of ${Math.round(run.milliseconds)} ms in ${this.engine.place === "worker" ? "a worker" : "the page"}`);
    if (this.facts.page.model.rounded) parts.push("weights rounded to float16");
    this.status.textContent = parts.join(" · ");
    this.element.classList.remove("wrong");
  }

  chosen() {
    return this.focus?.state ?? { pos: 0 };
  }
}

/** Note when something was asked for, by a key or a click; what waits already was asked before. */
function asked() {
  if (!performance.getEntriesByName("asked").length) performance.mark("asked");
}

/** Note how long it took from what was asked to what is on the screen, as the measure "drawn". */
function drawn() {
  requestAnimationFrame(() =>
    setTimeout(() => {
      performance.clearMeasures("drawn");
      if (performance.getEntriesByName("asked").length) performance.measure("drawn", "asked");
      performance.clearMarks("asked");
    }),
  );
}

/** For tests, and for whoever wants to look: the numbers, the choice, and the engine. */
function offerLive(live) {
  const offered = {
    get run() {
      return live.run;
    },
    get focus() {
      return { ...live.focus.state };
    },
    get idle() {
      return !live.busy;
    },
    get place() {
      return live.engine.place;
    },
    show: (change) => live.focus.set(change),
    engine: live.engine,
    ask: (kind, request) => live.engine.ask(kind, request),
  };
  Object.defineProperty(window, "gpt2np", { value: Object.freeze(offered) });
}

const root = document.getElementById("page"),
  live = new Live(JSON.parse(document.getElementById("facts").textContent));
root.replaceChildren(live.element, live.holder);
live.engine
  .start(document.getElementById("weights").textContent, live.facts)
  .then(() => live.read({ ids: live.ids }, "typing"))
  .then(() => offerLive(live))
  .catch((error) => {
    root.replaceChildren(el("p", { class: "waiting", role: "alert" }, `This page could not be shown. ${error.message}`));
    throw error;
  });
