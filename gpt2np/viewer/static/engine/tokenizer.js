// GPT-2's tokenizer: text is cut into words, words become bytes, and neighbouring pieces are joined, lowest rank first.

// What \s is in the regular expression of GPT-2; JavaScript's own has other characters.
const SPACES = "\\t\\n\\v\\f\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORDS = new RegExp(
  `'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACES}\\p{L}\\p{N}]+|[${SPACES}]+$|[${SPACES}]+(?![^${SPACES}])|[${SPACES}]`,
  "gu",
);

/** The printable character that stands for each of the 256 bytes. */
export function byteCharacters() {
  let other = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    return String.fromCharCode(printable ? byte : other++);
  });
}

export class Tokenizer {
  /** `spelling`: of every id, in these characters; `ranks`: the ids of the 256 bytes, then of what merges make, in order; `added`: ids whose spelling is their text. */
  constructor({ spelling, ranks, added }) {
    this.characters = byteCharacters();
    const byteOf = new Map(this.characters.map((character, byte) => [character, byte]));
    const texts = new Set(added),
      encoder = new TextEncoder();
    this.bytes = spelling.map((piece, id) =>
      piece === null ? null : texts.has(id) || [...piece].some((character) => !byteOf.has(character))
        ? encoder.encode(piece)
        : Uint8Array.from(piece, (character) => byteOf.get(character)),
    );
    this.ranks = new Map(ranks.map((id, rank) => [spelling[id], rank]));
    this.idOfRank = ranks;
    this.longest = this.bytes.reduce((most, bytes) => Math.max(most, bytes?.length ?? 0), 0);
    this.known = new Map();
  }

  /** The ids of a text; half a surrogate pair becomes U+FFFD. `<|endoftext|>` in it is plain text. */
  encode(text) {
    const ids = [];
    for (const word of text.replace(/[\ud800-\udfff]/gu, "\ufffd").match(WORDS) ?? []) {
      if (!this.known.has(word)) {
        if (this.known.size > 5000) this.known.clear();
        this.known.set(word, this.joined(word));
      }
      for (const id of this.known.get(word)) ids.push(id);
    }
    return ids;
  }

  joined(word) {
    const pieces = Array.from(new TextEncoder().encode(word), (byte) => this.characters[byte]);
    for (;;) {
      let best = Infinity,
        at = -1;
      for (let i = 0; i + 1 < pieces.length; i++) {
        const rank = this.ranks.get(pieces[i] + pieces[i + 1]) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return pieces.map((piece) => this.idOfRank[this.ranks.get(piece)]);
      pieces.splice(at, 2, pieces[at] + pieces[at + 1]);
    }
  }

  /** The text of ids; bytes that are no whole character become U+FFFD. */
  decode(ids) {
    const parts = ids.map((id) => this.bytes[id]).filter(Boolean),
      all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(all);
  }

  /** One token as text; bytes of an incomplete character as `\xe2`. */
  token(id) {
    const bytes = this.bytes[id];
    if (!bytes) return `<${id}>`;
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return incomplete(bytes);
    }
  }
}

/** Bytes that are not all whole characters: what is whole as text, the rest in hexadecimal. */
function incomplete(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; ) {
    const character = characterAt(bytes, i);
    text += character || `\\x${bytes[i].toString(16).padStart(2, "0")}`;
    i += character ? new TextEncoder().encode(character).length : 1;
  }
  return text;
}

/** The character that begins at a byte; empty where none does. */
export function characterAt(bytes, start) {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (let n = Math.min(4, bytes.length - start); n > 0; n--) {
    try {
      const text = strict.decode(bytes.subarray(start, start + n));
      if ([...text].length === 1) return text;
    } catch {
      /* not a character: try fewer bytes */
    }
  }
  return "";
}
