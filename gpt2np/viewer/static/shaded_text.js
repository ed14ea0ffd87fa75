// The text as it is read, each token underlined by a share: the parts of a character stand as that character, once.

import { colour, directionOf, el, markedLabel, quoted, visible } from "./drawing.js";

const PART_OF_CHARACTER = /(\\u[0-9a-f]{4,5}|\P{M}\p{M}*|\p{M}+)([¹²³⁴⁵⁶⁷⁸⁹])⁄([₁₂₃₄₅₆₇₈₉])/gu;
const [RAISED, LOWERED] = ["⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"];

/** Elements of the tokens from `first` on; `shareOf(t)` is a token's share, null where it has none; `at` is framed. */
export function shadedText(run, { first, count, at, shareOf, told }) {
  return groupsOf(run.labels, first, count).map(({ positions, text }) => {
    const shares = positions.map(shareOf);
    const made = el(
      "span",
      { class: positions.includes(at) ? "self" : "", title: positions.map((t) => `${quoted(run.labels[t])} (${t})${told(t)}`).join("\n") },
      asRead(text),
    );
    const stretches = shares.map((share, i) => {
      const ink = share === null ? "transparent" : colour("share", Math.sqrt(share) * 0.85);
      return `${ink} ${(100 * i) / shares.length}% ${(100 * (i + 1)) / shares.length}%`;
    });
    const way = directionOf(text) === "rtl" ? "left" : "right";
    if (shares.some((share) => share !== null)) made.style.backgroundImage = `linear-gradient(to ${way}, ${stretches.join(", ")})`;
    return made;
  });
}

// Nothing is isolated: letters join across tokens, and what is read from right to left stands so. Spaces are spaces.
function asRead(text) {
  const pieces = text.split(/( +)/).filter(Boolean);
  return pieces.flatMap((piece) => (piece.startsWith(" ") ? piece : [...markedLabel(visible(piece)).childNodes]));
}

/** Tokens in a row, those together that share a character: [{positions, text}]. */
export function groupsOf(labels, first, count) {
  const groups = [];
  let open = null; // the character that the last token left unfinished, and its next part
  for (let t = first; t < first + count; t++) {
    const parts = partsOf(labels[t]);
    const goesOn = open && parts[0]?.from === 0 && parts[0].character === open.character && parts[0].part === open.part + 1;
    if (goesOn) groups.at(-1).positions.push(t);
    else groups.push({ positions: [t], text: "" });
    groups.at(-1).text += wholeText(labels[t], parts, Boolean(goesOn));
    const last = parts.at(-1);
    open = last && last.to === labels[t].length && last.part < last.of ? last : null;
  }
  return joined(groups);
}

// What a reader takes for one character stays whole: a letter with its accents, a family of emoji.
function joined(groups) {
  const begins = new Set([...new Intl.Segmenter().segment(groups.map(({ text }) => text).join(""))].map(({ index }) => index));
  const whole = [];
  let at = 0;
  for (const { positions, text } of groups) {
    if (begins.has(at)) whole.push({ positions: [...positions], text });
    else {
      whole.at(-1).positions.push(...positions);
      whole.at(-1).text += text;
    }
    at += text.length;
  }
  return whole;
}

function partsOf(label) {
  return [...label.matchAll(PART_OF_CHARACTER)].map(({ 0: all, 1: character, 2: part, 3: of, index }) => ({
    character,
    part: RAISED.indexOf(part),
    of: LOWERED.indexOf(of),
    from: index,
    to: index + all.length,
  }));
}

// A character where its first part is, nothing where the others are; a part whose first is not here stays a part.
function wholeText(label, parts, goesOn) {
  let text = "",
    end = 0;
  parts.forEach(({ character, part, from, to }, i) => {
    const left = part === 1 ? character.replace(/^\\u(200[cd])$/, (_, code) => String.fromCodePoint(parseInt(code, 16))) : i === 0 && goesOn ? "" : label.slice(from, to);
    text += label.slice(end, from) + left;
    end = to;
  });
  return text + label.slice(end);
}
