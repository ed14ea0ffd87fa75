// Words of the page that the glossary has: the first of each in a panel opens its entry, there where it is read.

import { el } from "./drawing.js";
import { termsOf } from "./glossary.js";

const WHERE = ".intro, .card .text, p.small, :is(.picture-key, .grid-key, .composition-key) small"; // what the page itself says; a user's text is in none of them, or is marked
const EVERYDAY = ["GPT-2", "layer", "block", "position", "key", "value", "up", "window", "group"]; // of too many meanings
const SHORT = { stream: "residual stream", softmax: "score, pattern", activation: "GELU" }; // said without the rest
const NO_WORD = "button, a, .token, .key";

/** What links the words of a panel, and the box that shows an entry. */
export function buildTerms(run, focus) {
  const entries = new Map(termsOf(run));
  const words = wordsOf(entries);
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}_.-])(${[...words.keys()].map(inflected).join("|")})(?![\\p{L}\\p{N}_-])`, "iu");
  const [name, text] = [el("b", {}), el("p", {})];
  const more = el("button", { type: "button", class: "link" }, "in the glossary →");
  const box = el("div", { class: "definition", popover: "auto", role: "note" }, name, text, more);

  function open(event, term) {
    const at = event.currentTarget.getBoundingClientRect();
    if (!box.showPopover) return; // a browser before 2024: the link leads to the glossary
    event.preventDefault();
    close();
    name.textContent = term;
    text.textContent = entries.get(term);
    more.onclick = () => toGlossary(term);
    box.showPopover({ source: event.currentTarget });
    const { width, height } = box.getBoundingClientRect();
    const below = at.bottom + height + 8 < innerHeight || at.top < height + 8;
    box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
    box.style.top = `${below ? at.bottom + 6 : at.top - height - 6}px`;
  }

  function close() {
    if (box.showPopover && box.matches(":popover-open")) box.hidePopover();
  }

  function toGlossary(term) {
    close();
    focus.set({ panel: "glossary" });
    const entry = document.querySelector(`[data-term="${CSS.escape(term)}"]`);
    entry?.focus({ preventScroll: true });
    entry?.scrollIntoView({ block: "center" });
  }

  /** Link what is not linked yet; a panel that draws its texts anew asks again. */
  function link(panel) {
    const linked = new Set([...panel.querySelectorAll(".term")].map((each) => each.dataset.of));
    for (const place of panel.querySelectorAll(WHERE)) {
      const walk = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
      for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        if (node.parentElement.closest(NO_WORD) || node.data.includes("\u2068")) continue;
        linkIn(node, linked);
      }
    }
  }

  // The first word in a text that is no link yet: what is behind it is a text of its own, and comes next.
  function linkIn(node, linked) {
    let from = 0;
    for (let found = pattern.exec(node.data); found; found = pattern.exec(node.data.slice(from))) {
      const at = from + found.index;
      const term = words.get(stem(found[0], words));
      if (!linked.has(term)) {
        linked.add(term);
        const word = node.splitText(at);
        word.splitText(found[0].length);
        const made = el("a", { href: "#panel=glossary", class: "term", "data-of": term, "aria-haspopup": "true" }, found[0]);
        made.addEventListener("click", (event) => open(event, term));
        word.replaceWith(made);
        return;
      }
      from = at + found[0].length;
    }
  }
  return { link, box };
}

/** Every word or phrase with the entry that it belongs to, the longest first. */
function wordsOf(entries) {
  const words = new Map(Object.entries(SHORT).filter(([, term]) => entries.has(term)));
  for (const term of entries.keys())
    for (const word of term.split(/, | \(|\)/).filter(Boolean)) if (!EVERYDAY.includes(word)) words.set(word.toLowerCase(), term);
  return new Map([...words].sort(([a], [b]) => b.length - a.length));
}

/** One or several of a thing. */
function inflected(word) {
  const plain = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return word.endsWith("y") ? `${plain.slice(0, -1)}(?:y|ies)` : `${plain}s?`;
}

/** The word itself, of one that may be several. */
function stem(found, words) {
  const said = found.toLowerCase();
  return [said, said.replace(/s$/, ""), said.replace(/ies$/, "y")].find((each) => words.has(each));
}
