// What is chosen: the one place that holds it. Everything that draws listens here; the address keeps it.

const NUMBERS = ["layer", "head", "pos", "step"];

/** The choice, with limits from the run. `set` changes part of it and tells whoever listens. */
export class Focus {
  constructor(run, panels) {
    this.run = run;
    this.panels = panels;
    this.listeners = [];
    // to begin with: the last position, the last layer, and what comes out
    this.state = {
      panel: panels[0],
      layer: Math.min(run.L - 1, Math.floor(run.L / 2)),
      head: 0,
      pos: run.T - 1,
      part: "attn.pattern",
      neuron: null,
      step: 0,
      token: null,
    };
    this.take(opening());
    this.take(location.hash.slice(1));
    this.follow(this.state);
  }

  on(listener) {
    this.listeners.push(listener);
  }

  set(change) {
    const before = this.state,
      after = this.legal({ ...before, ...change });
    if (after.pos !== before.pos) this.follow(after);
    const changed = Object.keys(after).filter((key) => after[key] !== before[key]);
    if (!changed.length) return;
    this.state = after;
    this.write();
    this.told(new Set(changed));
  }

  /** Put what is chosen into the address. */
  write() {
    try {
      history.replaceState(null, "", this.hash());
    } catch {
      /* a page inside a notebook has no address */
    }
  }

  /** Tell whoever listens what has changed. */
  told(changed) {
    for (const listener of this.listeners) listener(this.state, changed);
  }

  /** The step of a generation that was chosen at the position, if one was. */
  follow(state) {
    const step = this.run.generation?.steps.findIndex((choice) => choice.pos === state.pos) ?? -1;
    if (step >= 0) state.step = step;
  }

  legal(state) {
    const { run } = this,
      steps = run.generation?.steps.length ?? 1;
    const most = { layer: run.L - 1, head: run.H - 1, pos: run.T - 1, step: Math.max(0, steps - 1) };
    for (const key of NUMBERS) state[key] = Math.min(Math.max(0, Math.round(state[key]) || 0), most[key]);
    if (!this.panels.includes(state.panel)) state.panel = this.panels[0];
    if (!run.parts.some((part) => part.site === state.part)) state.part = "resid_post";
    return state;
  }

  hash() {
    const { panel, layer, head, pos, part } = this.state;
    const big = Number(document.documentElement.classList.contains("big"));
    const more = big !== Number(new URLSearchParams(opening()).get("big")) ? { big } : {};
    const { tour } = document.documentElement.dataset;
    if (tour) more.tour = tour;
    return `#${new URLSearchParams({ panel, layer, head, pos, part, ...more })}`;
  }

  /** Choose what the address says now; where it says nothing, what the file opens with. */
  read() {
    this.take(location.hash.slice(1) || opening());
  }

  take(asked) {
    const given = new URLSearchParams(asked),
      change = {};
    for (const key of ["panel", "part", ...NUMBERS]) {
      if (given.has(key)) change[key] = NUMBERS.includes(key) ? Number(given.get(key)) : given.get(key);
    }
    if (given.has("big")) document.documentElement.classList.toggle("big", given.get("big") === "1");
    this.state = this.legal({ ...this.state, ...change });
  }
}

/** The state that the file itself opens with, as an address. */
function opening() {
  return document.getElementById("page").dataset.opensAt;
}
