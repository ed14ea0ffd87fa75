// What a reader is shown of tokens that are parts of a character: as characters.py has it.

import { characterAt } from "./tokenizer.js";

const MOST = 2000; // characters of the text that a page shows above its tokens
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u; // a text with a character that cannot be seen

/** {shown, written} of a text in which tokens are parts of characters, nothing of any other; names have `longest` characters. */
export function asWritten({ bytes }, ids, tokens, longest) {
  const pieces = ids.map((id) => bytes[id] ?? new Uint8Array()),
    { shown, written } = readable(pieces, tokens);
  if (shown.every((text, i) => text === tokens[i])) return {};
  return { shown: shown.map((text) => text.slice(0, longest)), written: [...written].slice(0, MOST).join("") };
}

/** Each token as it is shown, "日 1/3" of a part of a character, and the text with its characters put together. */
function readable(pieces, tokens) {
  const holder = pieces.flatMap((piece, i) => Array(piece.length).fill(i)), // of each byte its token
    all = Uint8Array.from(pieces.flatMap((piece) => [...piece])),
    parts = tokens.map(() => "");
  let written = "";
  for (let at = 0; at < all.length; ) {
    const character = characterAt(all, at),
      end = at + (character ? new TextEncoder().encode(character).length : 1),
      holders = [...new Set(holder.slice(at, end))];
    holders.forEach((i, n) => {
      parts[i] += holders.length === 1 ? character || "\ufffd" : `${named(character)} ${n + 1}/${holders.length}`;
    });
    written += character || `\\x${all[at].toString(16).padStart(2, "0")}`;
    at = end;
  }
  const better = (text, token) => token.includes("\\x") && !text.includes("\ufffd") && !UNSEEN.test(text);
  return { shown: tokens.map((token, i) => (better(parts[i], token) ? parts[i] : token)), written };
}

function named(character) {
  return UNSEEN.test(character) ? `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}` : character;
}
