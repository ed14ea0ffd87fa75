// The numbers that NumPy draws: SeedSequence and PCG64 (O'Neill 2014), in whole numbers of any size.

const M32 = 0xffffffffn,
  M64 = (1n << 64n) - 1n,
  M128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/** SeedSequence(seed).generate_state(4, uint64): four numbers of 64 bits. */
export function seedState(seed) {
  const entropy = [];
  for (let rest = BigInt(seed); rest > 0n || !entropy.length; rest >>= 32n) entropy.push(rest & M32);
  let constant = 0x43b0d7e5n;
  const hashed = (value) => {
    value ^= constant;
    constant = (constant * 0x931e8875n) & M32;
    value = (value * constant) & M32;
    return value ^ (value >> 16n);
  };
  const mixed = (x, y) => {
    const result = (0xca01f9ddn * x - 0x4973f715n * y) & M32;
    return result ^ (result >> 16n);
  };
  const pool = Array.from({ length: 4 }, (_, i) => hashed(entropy[i] ?? 0n));
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mixed(pool[to], hashed(pool[from]));
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mixed(pool[to], hashed(word));
  let second = 0x8b51f9ddn;
  const words = Array.from({ length: 8 }, (_, i) => {
    let value = pool[i % 4] ^ second;
    second = (second * 0x58f38dedn) & M32;
    value = (value * second) & M32;
    return value ^ (value >> 16n);
  });
  return Array.from({ length: 4 }, (_, i) => words[2 * i] | (words[2 * i + 1] << 32n));
}

/** What gives the numbers from 0 to 1, without 1, of `numpy.random.Generator(PCG64(seed)).random()`. */
export function draws(seed) {
  const [a, b, c, d] = seedState(seed),
    increment = ((((c << 64n) | d) << 1n) | 1n) & M128;
  let state = 0n;
  const advance = () => {
    state = (state * MULTIPLIER + increment) & M128;
  };
  advance();
  state = (state + ((a << 64n) | b)) & M128;
  advance();
  return () => {
    advance();
    const folded = (state >> 64n) ^ (state & M64),
      turn = state >> 122n;
    const turned = ((folded >> turn) | (folded << (64n - turn))) & M64;
    return Number(turned >> 11n) / 2 ** 53;
  };
}
