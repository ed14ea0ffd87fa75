// Switches for heads, MLPs and positions, and what each part that is off costs the text.

import { colour, darkOn, el, hideTip, showTip, signed } from "./drawing.js";

const mean = (losses) => losses.reduce((a, b) => a + b, 0) / losses.length;

// What the loss of a run can be that a part is missed by: of the losses of all its tokens, and the chosen position.
const COSTS = {
  text: { name: "the whole text", said: () => "the text", of: (losses) => mean(losses.slice(1)) },
  rest: { name: "the text from the chosen token on", said: (pos) => `positions from ${pos} on`, of: (losses, pos) => mean(losses.slice(pos)) },
  token: { name: "the chosen token", said: (pos) => `position ${pos}`, of: (losses, pos) => losses[pos] },
};

/** The switches of a model; `live` has `off`, `switchOff(off)`, `run`, `chosen()` and `lossesWith(off)`. */
export function buildSwitches(config, live) {
  const cells = new Map(), // "1.0" of a head, "1.mlp" of an MLP: its button
    grid = el("div", { class: "grid switches", role: "group", "aria-label": "heads and MLPs" }),
    hidden = el("span", {}),
    told = el("p", { class: "small", role: "status" }),
    of = el(
      "select",
      { "aria-label": "loss of", onchange: () => draw(true) },
      Object.entries(COSTS).map(([value, { name }]) => el("option", { value }, name)),
    );
  let effects = new Map();
  grid.style.setProperty("--columns", config.n_head + 1);
  for (let layer = 0; layer < config.n_layer; layer++) {
    grid.append(el("span", { class: "side" }, `layer ${layer}`));
    for (let head = 0; head < config.n_head; head++) grid.append(cell(`${layer}.${head}`, `layer ${layer} head ${head}`, `head ${head}`));
    grid.append(cell(`${layer}.mlp`, `layer ${layer} MLP`, "MLP"));
  }
  const hide = button("Hide the chosen position", () => live.switchOff(toggled(live.off, "positions", live.chosen().pos))),
    all = button("Everything on", () => live.switchOff({ heads: [], mlps: [], positions: [] })),
    each = button("Try each part", tryEach);
  const element = el(
    "details",
    { class: "switch-board" },
    el("summary", {}, "Switch parts off"),
    el(
      "p",
      { class: "small" },
      "A head that is off gives nothing, nor does an MLP; a position that is hidden is seen by itself only. The panel ",
      el("b", {}, "What changed"),
      " compares with the whole model. A part that is missed need not be the one that does the work, and heads stand in for one another: " +
        "switch one off, and try each of the others again.",
    ),
    grid,
    el("div", { class: "actions" }, each, el("label", {}, "and measure the loss of", of), hide, all, hidden),
    told,
  );

  function cell(key, name, shown) {
    const made = button(shown, () => live.switchOff(switched(live.off, key)));
    made.setAttribute("aria-label", name);
    made.onmousemove = (event) => effects.has(key) && showTip(event, `without it: loss ${signed(effects.get(key), 3)} nats`);
    made.onmouseleave = hideTip;
    cells.set(key, made);
    return made;
  }

  /** One pass for every part that is on, with it off as well: what the text then costs. */
  async function tryEach() {
    const { run, off } = live,
      already = off.heads.length + off.mlps.length + off.positions.length,
      { pos } = live.chosen(),
      isSame = () => String(live.run.ids) === String(run.ids),
      measure = COSTS[of.value],
      measured = async (parts) => measure.of(await live.lossesWith(parts), pos);
    if (run.T < 2 || (of.value !== "text" && !pos)) return void (told.textContent = "What comes first was not foreseen, and has no loss.");
    each.disabled = true;
    const now = await measured(off);
    effects = new Map();
    for (const key of cells.keys()) {
      if (!isSame()) break; // another text has other losses
      if (isOff(off, key)) continue;
      effects.set(key, (await measured(switched(off, key))) - now);
      told.textContent = `${effects.size} of ${cells.size} tried …`;
    }
    if (!isSame()) effects = new Map();
    const worst = [...effects].sort((a, b) => b[1] - a[1]).slice(0, 5);
    const named = ([key, cost]) => `layer ${key.replace(".mlp", " MLP").replace(".", " head ")} (${signed(cost, 2)} nats)`;
    const besides = already ? `, beside the ${already} off before` : "";
    told.textContent = worst.length ? `Missed most, for ${measure.said(pos)}${besides}: ${worst.map(named).join(", ")}.` : "";
    each.disabled = false;
    draw();
  }

  /** Show what is off; `forget` the effects, which are of another text. */
  function draw(forget = false) {
    if (forget) {
      effects = new Map();
      told.textContent = "";
    }
    const { heads, mlps, positions } = live.off,
      most = Math.max(0.05, ...effects.values());
    for (const [key, made] of cells) {
      const off = isOff(live.off, key),
        share = Math.sqrt(Math.max(0, effects.get(key) ?? 0) / most);
      made.setAttribute("aria-pressed", String(off));
      made.style.background = effects.has(key) && !off ? colour("share", share) : "";
      made.classList.toggle("light-ink", effects.has(key) && !off && darkOn("share", share));
      made.classList.toggle("dark-ink", effects.has(key) && !off && !darkOn("share", share));
    }
    hidden.textContent = positions.length ? `Hidden: ${positions.join(", ")}.` : "";
    all.disabled = !heads.length && !mlps.length && !positions.length;
  }
  draw();
  return { element, draw };
}

function button(name, onclick) {
  return el("button", { type: "button", class: "action", onclick }, name);
}

/** What is off once a head ("1.0") or an MLP ("1.mlp") has changed sides. */
function switched(off, key) {
  const [layer, part] = key.split(".");
  return part === "mlp" ? toggled(off, "mlps", Number(layer)) : toggled(off, "heads", [Number(layer), Number(part)]);
}

function isOff(off, key) {
  const [layer, part] = key.split(".");
  return part === "mlp" ? off.mlps.includes(Number(layer)) : off.heads.some(([l, h]) => l === Number(layer) && h === Number(part));
}

/** The same of any kind of part. */
function toggled(off, kind, part) {
  const without = off[kind].filter((each) => String(each) !== String(part));
  return { ...off, [kind]: without.length < off[kind].length ? without : [...without, part] };
}
