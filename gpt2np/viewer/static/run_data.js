// The run: what packing.py packed, and questions to it. Nothing here knows how it is drawn.

const KINDS = { f4: Float32Array, i1: Int8Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

// float16, which browsers of a few years ago have no array for: as float32.
function halves(bits) {
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const exponent = (bits[i] >> 10) & 31,
      fraction = bits[i] & 1023;
    const size =
      exponent === 31
        ? fraction
          ? NaN
          : Infinity
        : exponent
          ? 2 ** (exponent - 15) * (1 + fraction / 1024)
          : 2 ** -24 * fraction;
    out[i] = bits[i] >> 15 ? -size : size;
  }
  return out;
}

/** Header and arrays of an unzipped block (an ArrayBuffer). */
export function parse(block) {
  const n = new DataView(block).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(block, 4, n)));
  const arrays = {};
  for (const [name, { kind, shape, offset }] of Object.entries(header.arrays)) {
    const count = shape.reduce((a, b) => a * b, 1),
      start = 4 + n + offset;
    const data =
      kind === "f2" ? halves(new Uint16Array(block, start, count)) : new KINDS[kind](block, start, count);
    arrays[name] = { kind, shape, data };
  }
  delete header.arrays;
  return { header, arrays };
}

/** The same from base64 of gzip. */
export async function unpack(text) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unzip the data inside this page. Any browser of 2023 or later can.");
  }
  const binary = atob(text.trim()),
    bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return parse(await new Response(stream).arrayBuffer());
}

// How a token is written: "日¹⁄₃" where it is a part of a character, which Python calls "日 1/3".
function pieceText(token, shown) {
  if (shown === token) return token;
  return shown.replace(/ ([1-9])\/([1-9])/g, (_, part, of) => `${"⁰¹²³⁴⁵⁶⁷⁸⁹"[part]}⁄${"₀₁₂₃₄₅₆₇₈₉"[of]}`);
}

/** One run. Layers, heads and positions count from 0, as in Python. */
export class Run {
  constructor(packed) {
    this.take(packed);
  }

  /** Be the run of these facts and arrays. */
  take({ header, arrays }) {
    Object.assign(this, header);
    this.arrays = arrays;
    this.T = header.tokens.length;
    this.labels = header.tokens.map((token, pos) => pieceText(token, header.shown?.[pos] ?? token));
    this.text = header.written ?? this.labels.join(""); // as it is read
    this.L = header.model.ran;
    this.H = header.model.n_head;
  }

  /** Whether an array is in the page. */
  has(name) {
    return name in this.arrays;
  }

  /** Row of an array at the given leading indices; null where the page does not have it, or not yet. */
  at(name, ...indices) {
    const array = this.arrays[name];
    if (!array || (array.known && indices.length > 1 && !array.known[indices[0] * array.shape[1] + indices[1]])) return null;
    let offset = 0,
      rest = array.shape;
    for (const index of indices) {
      if (!(index >= 0 && index < rest[0])) return null;
      offset = offset * rest[0] + index;
      rest = rest.slice(1);
    }
    const size = rest.reduce((a, b) => a * b, 1);
    return array.data.subarray(offset * size, (offset + 1) * size);
  }

  /** Leading indices of a vector: [layer,] row of the position [, head, or the group that it is in]. */
  indices(site, layer, pos, head) {
    const row = pos - this.detail.first;
    const found = this.isGlobal(site) ? [row] : [layer, row];
    return this.perHead(site) ? [...found, this.shares(site) ? this.group(head) : head] : found;
  }

  part(site) {
    return this.parts.find((part) => part.site === site);
  }
  isGlobal(site) {
    return !(this.part(site)?.layered ?? true);
  }
  perHead(site) {
    const axis = this.part(site)?.axes[1];
    return axis === "head" || axis === "kv_head";
  }
  /** Whether several heads have the same vector of a site. */
  shares(site) {
    return this.part(site)?.axes[1] === "kv_head";
  }
  /** Whether a site has a number for each neuron. */
  ofNeurons(site) {
    return this.part(site)?.axes[1] === "d_mlp";
  }
  /** How many vectors of a site lie side by side: one for each head, or for each group of heads. */
  parties(site) {
    return this.shares(site) ? this.model.n_kv_head : this.H;
  }
  /** "head 4", or of what several heads share "group 1". */
  party(site, head) {
    return this.shares(site) && this.model.n_kv_head < this.H ? `group ${this.group(head)}` : `head ${head}`;
  }
  /** Whether heads share keys and values, and a head is the first of those that share theirs. */
  beginsGroup(head) {
    return this.model.n_kv_head < this.H && (head * this.model.n_kv_head) % this.H === 0;
  }
  /** The group of heads that a head shares its keys and values with. */
  group(head) {
    return Math.floor((head * this.model.n_kv_head) / this.H);
  }

  /** Cells of a vector as numbers, or null. */
  strip(site, layer, pos, head = 0) {
    const where = this.indices(site, layer, pos, head),
      cells = this.at(site, ...where);
    if (!cells || this.detail.floats) return cells;
    const scale = this.at(`${site}:scale`, ...where)[0];
    return Float32Array.from(cells, (q) => (q / 127) ** 3 * scale);
  }

  /** {norm, min, max} of a vector, exact; of a head's vector only the norm. */
  stats(site, layer, pos, head = 0) {
    const found = this.at(`${site}:stats`, ...this.indices(site, layer, pos, head));
    return found && { norm: found[0], min: found[1], max: found[2] };
  }

  /** How many components share one cell of a strip. */
  factor(site) {
    const factors = this.detail.factors;
    if (site === "attn.heads") return factors.outputs;
    if (site === "logits") return factors.vocab;
    return this.perHead(site) ? factors.d_head : this.ofNeurons(site) ? factors.d_mlp : factors.n_embd;
  }

  /** Attention of one query to keys 0 to itself; of long texts only the largest, the rest being 0. */
  weights(layer, head, query) {
    if (this.has("pattern:key")) {
      const keys = this.at("pattern:key", layer, head, query),
        row = new Float32Array(query + 1);
      this.at("pattern:weight", layer, head, query).forEach((w, i) => {
        if (keys[i] <= query) row[keys[i]] = w / 65535;
      });
      return row;
    }
    const stored = this.triangle("pattern", layer, head, query);
    if (!stored || stored instanceof Float32Array) return stored;
    return Float32Array.from(
      stored,
      stored instanceof Uint16Array ? (w) => w / 65535 : (w) => (w / 255) ** 2,
    );
  }

  /** The first key that a query of a layer sees: some layers look only so far back. */
  firstSeen(layer, query) {
    const window = this.model.windows[layer];
    return window ? Math.max(0, query - window + 1) : 0;
  }

  /** How far back a layer looks: "local, 256" or "global", in the model's own words; nothing of a model whose layers are all alike. */
  reach(layer) {
    const { windows } = this.model;
    if (!windows.some(Boolean)) return "";
    const [some, every] = this.model.kinds;
    return windows[layer] ? `${some}, ${windows[layer]}` : every;
  }

  /** A layer's name, with its reach where there is something to say of it. */
  layerName(layer) {
    return this.reach(layer) ? `layer ${layer} (${this.reach(layer)})` : `layer ${layer}`;
  }

  /** Whether a query sees a key: neither behind it nor before its layer's window. */
  sees(layer, query, key) {
    return key <= query && key >= this.firstSeen(layer, query);
  }

  /** Attention scores of one query, before softmax. */
  scores(layer, head, query) {
    return this.triangle("scores", layer, head, query);
  }

  triangle(name, layer, head, query) {
    const all = this.at(name, layer, head),
      start = (query * (query + 1)) / 2;
    return all && all.subarray(start, start + query + 1);
  }

  /** Attention as text: as many digits as are stored. No softmax gives nothing: that is less than can be written. */
  weightText(w) {
    const kind = this.detail.attention;
    if (Number.isNaN(w)) return "–";
    if (kind === "top" && w === 0) return "small";
    const least = { f4: 0.01, u1: 1 }[kind] ?? 0.1; // in percent
    if (100 * w < (kind === "f4" ? 1 : 0.5) * least) return `< ${least} %`;
    if (w < 1 && w >= (kind === "u1" ? 0.995 : 0.9995)) return kind === "u1" ? "> 99 %" : "> 99.9 %";
    if (kind === "f4") return `${w < 0.0995 ? (100 * w).toPrecision(2) : (100 * w).toFixed(1)} %`;
    return kind === "u1" ? `≈ ${(100 * w).toFixed(0)} %` : `${(100 * w).toFixed(1)} %`;
  }

  /** A token of the vocabulary as text. */
  word(id) {
    return this.vocabulary[id] ?? `<${id}>`;
  }

  /** Points of the residual stream: embed, then mid and post of each layer. */
  point(layer, at) {
    return at === "embed" ? 0 : 2 * layer + (at === "resid_mid" ? 1 : 2);
  }
  pointName(point) {
    return point ? `h.${(point - 1) >> 1}.${point % 2 ? "resid_mid" : "resid_post"}` : "embed";
  }
}
