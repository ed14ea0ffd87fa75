// The page's vocabulary, after the terminology notes of Dolan's "A Vector-Level View of GPT-2", in our words.

import { el } from "./drawing.js";

const TERMS = [
  [
    "GPT-2",
    "Four models of 2019 that differ only in size. Without a size the smallest is meant: 124 million parameters, 12 layers.",
  ],
  [
    "token",
    "A piece of text from a fixed vocabulary. Only the two ends of the model know tokens; inside there are vectors.",
  ],
  [
    "position",
    "The place of a token in the text, from 0; also the vector in the residual stream that belongs to this place.",
  ],
  [
    "embedding",
    "The vector that stands for a token inside the model: learned, n_embd numbers, no single one of which means much.",
  ],
  [
    "residual stream",
    "The vector of a position on its way down. Blocks read copies of it and add to it; nothing else changes it.",
  ],
  ["layer, block", "One attention and one MLP, each adding to the stream once. Counted from 0."],
  ["n_embd (d_model)", "Width of the residual stream and of every embedding."],
  [
    "head",
    "One of several attentions that work side by side in a layer, each with queries, keys and values of its own.",
  ],
  ["d_head", "Width of a head's query, key and value: n_embd divided by the number of heads."],
  ["d_mlp", "Number of neurons in a layer's MLP; four times n_embd in the released models."],
  ["n_ctx (n_positions)", "How many positions the model has embeddings for: the longest text that it takes."],
  ["query, key, value", "What a position looks for, what it can be found by, and what it hands over."],
  ["score, pattern", "How well a key answers a query; the scores of one query as shares that add up to 1."],
  ["QK circuit", "Queries and keys together: they decide where a head looks."],
  ["OV circuit", "Values and output matrix together: they decide what is moved, and how it is written."],
  ["causal", "A position sees itself and what is before it, never what comes after."],
  ["LayerNorm", "Brings a vector to mean 0 and variance 1, then multiplies it by a learned scale and adds a learned shift."],
  [
    "neuron",
    "One entry of an MLP's wide inner vector: it reads one direction of the stream and writes another.",
  ],
  ["GELU", "The activation function of the MLP: lets large positive numbers through, nearly silences negative ones."],
  ["logit", "The score of one token as the next; softmax turns the scores of all tokens into probabilities."],
  [
    "unembedding",
    "The table that scores a vector against every token. In GPT-2 it is the token embedding itself.",
  ],
  [
    "logit lens",
    "Final LayerNorm and unembedding applied in the middle: what would be predicted if the model stopped here.",
  ],
  [
    "contribution",
    "What one part adds to a logit while the scale of the final LayerNorm is held fixed. They add up to the logit.",
  ],
  [
    "induction head",
    "A head that finds an earlier occurrence of the present token and looks at what came after it.",
  ],
  [
    "superposition",
    "More features than dimensions: several share directions, so that single numbers are hard to read.",
  ],
  [
    "privileged basis",
    "Whether single components mean something. Neurons have one (GELU acts on each alone); the stream should not.",
  ],
  [
    "by the square root",
    "A scale on which the middle of the colours stands for a quarter of the largest number: small numbers can be told apart.",
  ],
  [
    "part of a character (²⁄₃)",
    "A token may hold only some bytes of a character: 日²⁄₃ is the second of the three tokens that are 日 together.",
  ],
  [
    "temperature, top-k, top-p",
    "Sharpen or flatten the distribution; keep the k likeliest tokens; keep the likeliest that make up p.",
  ],
];

// What is said of a model that is not built as GPT-2 is.
const OTHERWISE = {
  d_head: "Width of a head's query, key and value.",
  d_mlp: "Number of neurons in a layer's MLP.",
  "n_ctx (n_positions)": "The longest text that the model takes.",
  causal:
    "A position sees itself and what is before it, never what comes after; in some layers only so far back.",
  unembedding: "The table that scores a vector against every token.",
};
const GROUPED = {
  head: "One of several attentions that work side by side in a layer, each with queries of its own.",
  "query, key, value":
    "What a position looks for, what it can be found by, and what it hands over. Heads of a group share the last two.",
};

// What only some models have, by a test of the run.
const ONLY_SOME = [
  [
    (run) => run.part("attn.q_rot"),
    "rotation (RoPE)",
    "Queries and keys are turned by angles that grow with the position; their products then know how far apart the two stand.",
  ],
  [
    (run) => run.model.n_kv_head < run.H,
    "group",
    "Query heads that share one key and value head; each still decides by its own queries where to look.",
  ],
  [
    (run) => run.model.windows.some(Boolean),
    "window",
    "How many keys a query of some layers sees, its own included; earlier keys are as invisible as the future.",
  ],
  [
    (run) => run.part("mlp.up"),
    "gate, up",
    "The two halves of a neuron: how far it is open, and what it would write; it writes their product.",
  ],
  [
    (run) => run.model.capped,
    "soft cap",
    "cap · tanh(x / cap): leaves small numbers nearly as they are, and lets none pass the cap.",
  ],
];
const CAPPED =
  "What one part adds to a logit while the scale of the final LayerNorm is held fixed. They add up to the logit before its cap.";
const RMS = "Brings a vector to mean square 1, then multiplies it by a learned scale.";

/** The words for the model at hand: of GPT-2 all; of another those that hold for any, and its own norm. */
export function termsOf(run) {
  const { model } = run;
  if (model.type === "gpt2") return TERMS;
  const bends = model.activation.startsWith("gelu");
  const own = ONLY_SOME.filter(([has]) => has(run)).map(([, term, text]) => [term, text]);
  const shared = TERMS.filter(([term]) => term !== "GPT-2" && (term !== "GELU" || bends)).map(([term, text]) => {
    if (term === "LayerNorm" && model.norm !== "LayerNorm") return [model.norm, RMS];
    const grouped = model.n_kv_head < model.n_head ? GROUPED[term] : undefined;
    const capped = term === "contribution" && model.capped ? CAPPED : undefined;
    const said = (grouped ?? capped ?? OTHERWISE[term] ?? text).replaceAll("LayerNorm", model.norm);
    return [term, bends ? said : said.replaceAll("GELU", model.activation)];
  });
  return [...shared, ...own];
}

const KEYS = (panels) => [
  [`1 … ${Math.min(9, panels)}`, "panel"],
  ["← →", "position before, after"],
  ["↑ ↓", "layer above, below"],
  ["[ ]", "head before, after"],
  [", .", "step of a generation"],
  ["t", "light or dark"],
  ["b", "big, for a projector, or not"],
  ["?", "this page"],
  ["n p Esc", "in the tour: next stop, stop before, leave"],
];

/** Each source once, with the address that paper cannot be clicked for. */
function sourcesOf(commentary) {
  const found = new Map(commentary.map(({ source, address }) => [address, source]));
  return [...found].map(([address, source]) => el("span", {}, `${source}: ${address}`)).flatMap((each) => [each, " "]);
}

export function glossaryPanel(run, focus) {
  const { factors, floats, attention, top, first, firstLens, budget } = run.detail;
  const share = (n) =>
    n === 1
      ? "every component is a cell"
      : `one cell stands for ${n} neighbours and shows the largest of them`;
  const stored = {
    f4: "with every digit",
    u2: "to 1 in 65,535",
    u1: "as one byte of its square root (±1 % at worst)",
    top: `only the ${top} largest of each row, to 1 in 65,535; the rest are shown as empty`,
  };
  const stated = [
    `Vectors as wide as the stream: ${share(factors.n_embd)}. Of heads: ${share(factors.d_head)}. Of the MLP: ${share(factors.d_mlp)}.`,
    factors.outputs
      ? `Output vectors of heads: ${share(factors.outputs)}.`
      : "Output vectors of heads: left out.",
    floats
      ? "Cells are stored with three digits."
      : "Cells are stored as one byte each (the cube root over the vector's largest), which colours need; norms, minima and maxima are exact.",
    "Colour: each vector against its own size. Full colour is what 97 of 100 of its cells do not exceed, so that one huge component does not leave the rest blank; the norm beside a strip says how large it is.",
    `Attention: ${stored[attention]}. Colours go by its square root, so that small weights show.`,
    first ? `Vectors and neurons are here for positions ${first} to ${run.T - 1}.` : null,
    firstLens ? `Logit lens and contributions are here for positions ${firstLens} to ${run.T - 1}.` : null,
    `The run computed in ${run.model.dtype}; probabilities, contributions and norms are stored as float32.`,
    `The rule: a page of ${run.T} tokens has at most ${(budget / 1e6).toFixed(1)} MB (3 up to 30 tokens, 10 at 300, 20 at 1,024). Detail is dropped in fixed steps until that fits: first digits and cells of the vectors, then digits of attention, its scores, its small weights, and last the lens, contributions, vectors and neurons of the earliest positions.`,
  ].filter(Boolean);
  const missing = Object.entries(run.missing);
  const parts = [
    el("h3", { class: "keys-title" }, "Keys"),
    el(
      "dl",
      { class: "keys" },
      KEYS(focus.panels.length).map(([key, text]) => el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, text))),
    ),
    el("h3", {}, "Words"),
    el(
      "dl",
      { class: "terms" },
      [...termsOf(run)]
        .sort(([a], [b]) => a.localeCompare(b, "en"))
        .map(([term, text]) => el("div", {}, el("dt", { "data-term": term, tabindex: "-1" }, term), el("dd", {}, text))),
    ),
    run.commentary ? el("h3", {}, "What is known, and where it is from") : null,
    run.commentary
      ? el(
          "dl",
          { class: "terms" },
          run.commentary.map(({ title, text, source, address }) =>
            el(
              "div",
              {},
              el("dt", {}, title),
              el("dd", {}, `${text} `, el("a", { class: "source", href: address, rel: "noreferrer", target: "_blank" }, source)),
            ),
          ),
        )
      : null,
    run.commentary ? el("p", { class: "print-only small sources" }, ...sourcesOf(run.commentary)) : null,
    missing.length ? el("h3", {}, "What is not here, and why") : null,
    missing.length
      ? el(
          "ul",
          {},
          missing.map(([part, why]) => el("li", {}, `${part}: ${why}`)),
        )
      : null,
    el(
      "div",
      { class: "about" },
      el("h3", {}, "How exact this page is"),
      el(
        "ul",
        {},
        stated.map((line) => el("li", {}, line)),
      ),
      el(
        "p",
        { class: "small" },
        `Made by gpt2np ${run.model.gpt2np}. The picture follows Jeremy Dolan’s “A Vector-Level View of GPT-2” (2024). Everything is inside this file; it asks the network for nothing.`,
      ),
    ),
  ];
  const element = el("div", { class: "reading" }, parts);
  return { id: "glossary", title: "Glossary", element, draw() {} };
}
