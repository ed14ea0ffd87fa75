// The columns of the map's left side: which positions there is room for, where each stands, and what lies between them.

const NARROWEST = 14; // the widths of a column in pixels: slanted names need so much,
const WIDEST = 40; // and more is empty
const LEFT_OUT = 0.7; // of a column's width, where positions are left out
const BEYOND = 2; // positions after the chosen one that are shown, if there are so many

/**
 * Columns of the positions that fit: all, or of a long text the first, a window and the chosen one.
 * `positions` are in order, `x` has the middle of each, `gaps` are what is left out: {from, to, x}.
 */
export function fitColumns(run, stretch, width, pos) {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
  const side = width < 150 ? 10 : 34 * rem; // to the right of the last column, where the last name leans over
  const each = Math.max(NARROWEST * rem, Math.min(WIDEST * rem, (width - side) / run.T));
  const room = (width - side) / each;
  const positions = room >= run.T - 0.01 ? run.labels.map((_, at) => at) : someOf(run, stretch, room, pos);
  if (positions.length === run.T) stretch.tell("", 0, run.T);
  return { ...placed(positions, each, width - side), width: each };
}

/** The first position, those of the window, and the chosen one. */
function someOf(run, stretch, room, pos) {
  const whole = Math.max(1, Math.floor(room - 1 - LEFT_OUT));
  stretch.follow(pos, whole);
  const first = stretch.begin(whole, pos - whole + 1 + BEYOND);
  const inside = pos === 0 || (pos >= first && pos < first + whole);
  const count = inside ? whole : Math.max(1, whole - 2); // the chosen one needs a column and a gap
  const last = first + count - 1;
  const others = [first > 0 ? "the first one" : "", inside ? "" : "the chosen one"].filter(Boolean).join(" and ");
  stretch.tell(`Left: positions ${first} to ${last} of ${run.T}${others && `, with ${others}`}.`, first, whole);
  const shown = new Set([0, pos]);
  for (let at = first; at <= last; at++) shown.add(at);
  return [...shown].sort((a, b) => a - b);
}

/** Where each position and each gap stands, all of them in the middle of the width. */
function placed(positions, each, width) {
  const x = new Map();
  const gaps = [];
  let right = 0;
  positions.forEach((pos, i) => {
    const before = positions[i - 1];
    if (i > 0 && pos > before + 1) {
      gaps.push({ from: before + 1, to: pos - 1, x: right + (LEFT_OUT * each) / 2 });
      right += LEFT_OUT * each;
    }
    x.set(pos, right + each / 2);
    right += each;
  });
  const left = Math.max(2, (width - right) / 2);
  for (const pos of positions) x.set(pos, x.get(pos) + left);
  for (const gap of gaps) gap.x += left;
  return { positions, x, gaps };
}
