// The page as a whole: what was run, what is chosen, the panels, the keys.

import { Run, unpack } from "./data.js";
import { colour, el, hideTip, isDark, percent, quoted, tokenLabel } from "./draw.js";
import { Focus } from "./focus.js";
import { glossaryPanel } from "./glossary.js";
import { mapPanel } from "./map.js";
import { attentionPanel } from "./attention.js";
import { lensPanel } from "./lens.js";
import { contributionsPanel } from "./contributions.js";
import { mlpPanel } from "./mlp.js";
import { residualPanel } from "./residual.js";
import { generationPanel } from "./generation.js";

function build(run) {
  const ids = ["map", "attention", "lens", "contributions", "mlp", "residual", "generation", "glossary"];
  const focus = new Focus(run, run.detail.compact ? ["map", "attention", "glossary"] : ids);
  const makers = {
    map: mapPanel,
    attention: attentionPanel,
    lens: lensPanel,
    contributions: contributionsPanel,
    mlp: mlpPanel,
    residual: residualPanel,
    generation: generationPanel,
    glossary: glossaryPanel,
  };
  const panels = focus.panels.map((id) => makers[id](run, focus));

  // -- the head of the page: model, text, what is chosen ------------------------------------------
  const words = run.tokens.map((token, pos) => {
    const p = run.at("token:p", pos)?.[0];
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
  });
  const ribbon = el("div", { class: "ribbon", role: "toolbar", "aria-label": "tokens of the text" }, words),
    next = el("p", { class: "next" });
  const stepper = (name, key, most) => {
    const value = el("output", {});
    const move = (by) => focus.set({ [key]: focus.state[key] + by });
    return {
      key,
      value,
      element: el(
        "span",
        { class: "stepper" },
        el("button", { type: "button", "aria-label": `${name} before`, onclick: () => move(-1) }, "‹"),
        el("span", {}, `${name} `, value, el("small", {}, ` / ${most}`)),
        el("button", { type: "button", "aria-label": `${name} after`, onclick: () => move(1) }, "›"),
      ),
    };
  };
  const steppers = [
    stepper("token", "pos", run.T - 1),
    stepper("layer", "layer", run.L - 1),
    stepper("head", "head", run.H - 1),
  ];
  const theme = el(
    "button",
    { type: "button", class: "plain-button", onclick: swap, "aria-label": "light or dark" },
    "◐",
  );
  const help = el(
    "button",
    {
      type: "button",
      class: "plain-button",
      onclick: () => focus.set({ panel: "glossary" }),
      "aria-label": "help and glossary",
    },
    "?",
  );
  const m = run.model;
  const header = el(
    "header",
    { class: "top" },
    el(
      "div",
      { class: "title" },
      el("h1", {}, m.name),
      el(
        "p",
        { class: "facts" },
        `${m.n_layer} layers · ${m.n_head} heads · n_embd ${m.n_embd} · d_mlp ${m.d_mlp.toLocaleString("en")} · vocabulary ${m.vocab.toLocaleString("en")}${m.edits.length ? ` · edited: ${m.edits.slice(0, 3).join(", ")}` : ""}`,
      ),
      el("div", { class: "buttons" }, theme, help),
    ),
    el("div", { class: "text" }, ribbon, next),
  );
  const tabs = panels.map((panel, i) =>
    el(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${panel.id}`,
        "aria-controls": `panel-${panel.id}`,
        onclick: () => focus.set({ panel: panel.id }),
      },
      el("span", { class: "number", "aria-hidden": "true" }, String(i + 1)),
      panel.title,
    ),
  );
  const bar = el(
    "nav",
    { class: "bar" },
    el("div", { role: "tablist", "aria-label": "panels" }, tabs),
    el(
      "div",
      { class: "steppers" },
      steppers.map(({ element }) => element),
    ),
  );
  const sections = panels.map((panel) =>
    el(
      "section",
      { role: "tabpanel", id: `panel-${panel.id}`, "aria-labelledby": `tab-${panel.id}`, class: "panel" },
      el("h2", { class: "print-only" }, panel.title),
      panel.element,
    ),
  );
  document.getElementById("page").replaceChildren(header, bar, el("main", {}, sections));

  // -- drawing ------------------------------------------------------------------------------------
  function draw(all = false) {
    const { state } = focus;
    sections.forEach((section, i) => {
      section.hidden = !all && panels[i].id !== state.panel;
    });
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(panels[i].id === state.panel));
      tab.tabIndex = panels[i].id === state.panel ? 0 : -1;
    });
    words.forEach((word, pos) => {
      const p = run.at("token:p", pos)?.[0];
      word.setAttribute("aria-pressed", String(pos === state.pos));
      word.tabIndex = pos === state.pos ? 0 : -1;
      word.style.setProperty("--chance", p > 0 ? colour("chance", Math.sqrt(p)) : "transparent");
    });
    const tab = tabs[focus.panels.indexOf(state.panel)],
      list = tab.parentElement;
    if (list.scrollWidth > list.clientWidth) list.scrollLeft = tab.offsetLeft - list.offsetLeft - 40;
    for (const { key, value } of steppers) value.textContent = String(state[key]);
    const likeliest = run.at("next:id", state.pos);
    next.replaceChildren(
      ...(likeliest
        ? [
            el("small", {}, "next token: "),
            tokenLabel(run.word(likeliest[0])),
            el("span", { class: "aside" }, ` ${percent(run.at("next:p", state.pos)[0])}`),
          ]
        : []),
    );
    panels.forEach((panel, i) => {
      if (!sections[i].hidden) panel.draw(state);
    });
  }
  focus.on((state, changed) => {
    if (changed.has("panel")) hideTip();
    draw();
    if (changed.has("panel") && scrollY > header.offsetHeight) scrollTo(0, header.offsetHeight); // each panel from its top
    if (changed.has("pos")) {
      const word = words[state.pos];
      if (ribbon.scrollHeight > ribbon.clientHeight)
        ribbon.scrollTop = word.offsetTop - ribbon.clientHeight / 2;
      if (ribbon.contains(document.activeElement)) word.focus({ preventScroll: true });
    }
  });

  function swap() {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    draw();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => draw());
  });
  addEventListener("hashchange", () => {
    focus.read();
    draw();
  });
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw());

  // -- keys ---------------------------------------------------------------------------------------
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea"))
      return;
    const { state } = focus,
      steps = panels.find((panel) => panel.id === "generation");
    const moves = {
      ArrowLeft: { pos: state.pos - 1 },
      ArrowRight: { pos: state.pos + 1 },
      ArrowUp: { layer: state.layer - 1 },
      ArrowDown: { layer: state.layer + 1 },
      "[": { head: state.head - 1 },
      "]": { head: state.head + 1 },
      "?": { panel: "glossary" },
    };
    const onTab = event.target.matches("[role=tab]") && /^Arrow(Left|Right)$/.test(event.key);
    const inLens =
      event.target.closest?.(".scroll") &&
      event.target.tabIndex === 0 &&
      event.target.classList.contains("scroll");
    if (onTab) {
      const i = panels.findIndex((panel) => panel.id === state.panel) + (event.key === "ArrowRight" ? 1 : -1);
      focus.set({ panel: panels[(i + panels.length) % panels.length].id });
      tabs[focus.panels.indexOf(focus.state.panel)].focus();
    } else if (/^[1-9]$/.test(event.key) && panels[event.key - 1])
      focus.set({ panel: panels[event.key - 1].id });
    else if (event.key === "t") swap();
    else if ([",", "."].includes(event.key) && steps?.go) steps.go(state.step + (event.key === "." ? 1 : -1));
    else if (event.key in moves && !inLens) focus.set(moves[event.key]);
    else return;
    event.preventDefault();
  });

  draw();
  ribbon.scrollTop = Math.max(0, words[focus.state.pos].offsetTop - ribbon.clientHeight / 2);
  requestAnimationFrame(() => setTimeout(() => performance.mark("first-picture"))); // when it is on the screen
  // for tests, and for whoever wants to look: the numbers and the choice, not to be changed
  Object.defineProperty(window, "gpt2np", {
    value: Object.freeze({
      run,
      get focus() {
        return { ...focus.state };
      },
      show: (change) => focus.set(change),
    }),
  });
}

unpack(document.getElementById("data").textContent)
  .then((packed) => build(new Run(packed)))
  .catch((error) => {
    document
      .getElementById("page")
      .replaceChildren(
        el("p", { class: "waiting", role: "alert" }, `This page could not be shown. ${error.message}`),
      );
    throw error;
  });
