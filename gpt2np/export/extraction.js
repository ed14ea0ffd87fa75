// Reads what lies beside it: extraction.json (what the arrays are) and extraction.bin (little-endian float32).
// Works in browsers and in Node, needs nothing else; its types are in extraction.d.ts.

const SCHEMA = "gpt2np.typescript/1";

/**
 * Fetch an extraction and parse it; by default the one in the folder that this file is in.
 * @param {string | URL} [folder] URL of the folder, with a slash at its end
 * @returns {Promise<import("./extraction.js").FullGPT2Extraction>}
 */
export async function loadExtraction(folder = new URL(".", import.meta.url)) {
  const [json, data] = await Promise.all([
    read(new URL("extraction.json", folder)),
    read(new URL("extraction.bin", folder)),
  ]);
  return parseExtraction(JSON.parse(new TextDecoder().decode(json)), data);
}

/**
 * The document's object. Its arrays are views of `data`: nothing is copied.
 * @param {any} index what extraction.json holds
 * @param {ArrayBuffer | Uint8Array} data what extraction.bin holds
 * @returns {import("./extraction.js").FullGPT2Extraction}
 */
export function parseExtraction(index, data) {
  if (index?.schema !== SCHEMA) throw new Error(`extraction.json: schema is ${index?.schema}, expected ${SCHEMA}`);
  if (data.byteLength !== index.byteLength)
    throw new Error(`extraction.bin has ${data.byteLength} bytes, expected ${index.byteLength}`);
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  const { arrays, layers, tokenIds, tokens, attentionMask, positionIds } = index;
  /** @type {any} */
  const result = { tokenIds, tokens, attentionMask, positionIds };
  result.layers = Array.from({ length: layers }, (_, layerIndex) => ({ layerIndex }));
  for (const { name, layer, shape, byteOffset } of arrays) {
    const length = shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1);
    const target = layer === null ? result : result.layers[layer];
    target[name] = new Float32Array(bytes.buffer, bytes.byteOffset + byteOffset, length);
  }
  return result;
}

/** @param {URL} url @returns {Promise<Uint8Array>} */
async function read(url) {
  if (url.protocol === "file:") {
    const fs = "node:fs/promises"; // a variable, so that bundlers for browsers leave it alone
    return (await import(fs)).readFile(url);
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}
