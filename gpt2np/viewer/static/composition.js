// Composition: how much of what a head writes a head of a later layer reads, as a list and as maps of all pairs.

import { bar, colour, el, hideTip, scaleKey, showTip, svg } from "./drawing.js";

const READ_AS = { q: "queries", k: "keys", v: "values" };
const [SMALLEST_MAP, LARGEST_MAP_SIDE] = [180, 460]; // pixels of a map's side
const LARGEST_PAIR = 38; // and of a pair's square
const [BESIDE, ABOVE] = [78, 58]; // pixels for the names of layers and heads
const UPRIGHT = 120; // a smaller map is lower than the words beside it are long: they begin at its foot
const NUMBERED_HEADS = 13; // the width of a square from which on heads have their numbers

const headName = (head) => `layer ${head.split(".")[0]} head ${head.split(".")[1]}`;
const placeOf = (head) => ({ layer: Number(head.split(".")[0]), head: Number(head.split(".")[1]) });

/** What stands in the section: words, the strongest pairs, the key and the maps; `draw` paints the maps. */
export function compositionOf(run, focus) {
  const { pairs: best, chance, grids } = run.composition;
  if (!best.length) return { content: [el("p", { class: "small" }, "No head has a head of a later layer that could read it.")], draw() {} };
  const most = best[0][3];
  const list = best.map(([kind, writer, reader, score]) =>
    bar(`${headName(writer)} → ${READ_AS[kind]} of ${headName(reader)}`, score / most, score.toFixed(3), {
      kind: "share",
      onclick: () => focus.set(placeOf(reader)),
    }),
  );
  const key = el("p", { class: "composition-key" });
  const maps = el("div", { class: "grids" });
  const content = [
    el(
      "p",
      { class: "small" },
      "Two layers of heads talk by way of the stream: a head writes, and a head of a later layer makes its queries, keys or values of it. The score is " +
        `1 where the two share a single direction; unrelated heads reach ${chance.toFixed(3)}.`,
    ),
    el("div", { class: "long-names in-columns" }, list),
    ...(Object.keys(grids).length ? [maps] : [el("p", { class: "small" }, "There are too many heads to draw all of their pairs.")]),
  ];

  function draw(state) {
    key.replaceChildren(
      scaleKey("share", "0", (most / 4).toFixed(3), most.toFixed(3)),
      el("small", {}, " composition score, by the square root, the same in all three; grey: the reader is in no later layer; framed: the chosen head"),
    );
    const room = (maps.clientWidth - 2 * 28) / Object.keys(grids).length - BESIDE - 4;
    const side = Math.max(SMALLEST_MAP, Math.min(LARGEST_MAP_SIDE, room));
    maps.replaceChildren(key, ...Object.entries(grids).map(([kind, grid]) => mapOf(run, focus, state, { kind, grid, most, side })));
  }
  return { content, draw };
}

// Writers of all layers but the last down, readers of all but the first across: no other pair is one.
function mapOf(run, focus, state, { kind, grid, most, side }) {
  const { heads } = run.composition;
  const count = heads.length - run.H;
  const each = Math.min(LARGEST_PAIR, side / count);
  const [wide, title] = [count * each, `through ${READ_AS[kind]}`];
  const pairs = el("canvas", { width: Math.ceil(2 * wide), height: Math.ceil(2 * wide) });
  paintPairs(pairs, grid, run.H, most, getComputedStyle(document.documentElement).getPropertyValue("--wash"));
  const picture = svg("image", { x: BESIDE, y: ABOVE, width: wide, height: wide, href: pairs.toDataURL() });
  const at = (event) => {
    const box = picture.getBoundingClientRect();
    const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((x) =>
      Math.min(count - 1, Math.max(0, Math.floor(x * count))),
    );
    return [heads[row], heads[column + run.H], grid[row][column + run.H]];
  };
  picture.addEventListener("mousemove", (event) => {
    const [writer, reader, score] = at(event);
    showTip(event, `${headName(writer)} → ${READ_AS[kind]} of ${headName(reader)}`, score === null ? "not in a later layer" : score.toFixed(3));
  });
  picture.addEventListener("mouseleave", hideTip);
  picture.addEventListener("click", (event) => focus.set(placeOf(at(event)[1])));
  const [width, height] = [BESIDE + wide + 2, ABOVE + wide + 2];
  const drawn = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `composition ${title} of all pairs of heads` },
    [picture, ...axes(run, count, each), ...frames(run, state, count, each)],
  );
  drawn.style.width = `${width}px`;
  return el("div", { class: "composed" }, el("h4", {}, title), drawn);
}

function paintPairs(canvas, grid, perLayer, most, wash) {
  const context = canvas.getContext("2d");
  const count = grid.length - perLayer;
  const each = canvas.width / count;
  context.fillStyle = wash;
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (let row = 0; row < count; row++)
    for (let column = 0; column < count; column++) {
      const score = grid[row][column + perLayer];
      if (score === null) continue;
      context.fillStyle = colour("share", Math.sqrt(score / most));
      context.fillRect(column * each, row * each, each - (each > 12 ? 1.5 : -0.3), each - (each > 12 ? 1.5 : -0.3));
    }
}

// Which side is which, the layers with lines between them, and the heads where there is room.
function axes(run, count, each) {
  const wide = count * each,
    layer = run.H * each;
  const text = (x, y, words, anchor = "middle") => svg("text", { x, y, "text-anchor": anchor }, words);
  const named = layer >= 52; // room for a word
  const parts = [
    text(BESIDE + wide / 2, 12, "reads: a head of"),
    wide < UPRIGHT
      ? svg("text", { x: 0, y: 0, transform: `translate(12 ${ABOVE + wide}) rotate(-90)` }, "writes: a head of")
      : svg("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(12 ${ABOVE + wide / 2}) rotate(-90)` }, "writes: a head of"),
    ...(named ? [] : [text(BESIDE - 4, ABOVE - 24, "layer", "end")]),
  ];
  for (let i = 0; i * run.H < count; i++) {
    const start = i * layer;
    parts.push(
      text(BESIDE + start + layer / 2, ABOVE - 24, named ? `layer ${i + 1}` : String(i + 1)),
      svg("text", { "text-anchor": "middle", transform: `translate(36 ${ABOVE + start + layer / 2}) rotate(-90)` }, named ? `layer ${i}` : String(i)),
      svg("line", { x1: BESIDE + start, x2: BESIDE + start, y1: ABOVE - 20, y2: ABOVE + wide, class: "rule" }),
      svg("line", { x1: BESIDE - 34, x2: BESIDE + wide, y1: ABOVE + start, y2: ABOVE + start, class: "rule" }),
    );
    for (let head = 0; head < run.H && each >= NUMBERED_HEADS; head++)
      parts.push(
        text(BESIDE + start + (head + 0.5) * each, ABOVE - 5, String(head)),
        text(BESIDE - 6, ABOVE + start + (head + 0.5) * each + 4.5, String(head), "end"),
      );
  }
  if (each >= NUMBERED_HEADS) parts.push(text(BESIDE - 22, ABOVE - 5, "head", "middle"));
  return parts;
}

// The chosen head: its row as one that writes, its column as one that reads.
function frames(run, { layer, head }, count, each) {
  const chosen = layer * run.H + head,
    wide = count * each,
    around = each < 8 ? 1.5 : 0; // a frame of small squares stands around them, not on them
  const frame = ({ x, y, width, height }) =>
    svg("rect", { x: x - around, y: y - around, width: width + 2 * around, height: height + 2 * around, class: "chosen-pair", "stroke-width": around ? 1 : 1.6 });
  return [
    ...(chosen < count ? [frame({ x: BESIDE, y: ABOVE + chosen * each, width: wide, height: each })] : []),
    ...(chosen >= run.H ? [frame({ x: BESIDE + (chosen - run.H) * each, y: ABOVE, width: each, height: wide })] : []),
  ];
}
