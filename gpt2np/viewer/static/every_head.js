// All heads of all layers in one picture: layers down, heads across, each a small map of who looks at whom.

import { canvasFont, colour, el, hideTip, isPrinting, marker, paperRoom, showTip, sized } from "./drawing.js";

const NAMES_LEFT = 4; // rem for the names of layers
const TOP = 20; // pixels for those of heads
const SPACE = 4; // between two maps
const LARGEST = 96; // pixels of a map's side,
const PRINTED = 64; // and on paper
export const PIXELS = 96; // and how many positions it has, by itself the last ones

export function everyHead(run, focus) {
  const canvas = el("canvas", { role: "img", "aria-label": "attention patterns of all heads of all layers" });
  const holder = el("div", { class: "every-head" }, canvas);
  const element = el(
    "details",
    { class: "all-heads", ontoggle: () => draw(focus.state) },
    el("summary", {}, `All ${run.L * run.H} heads of all layers`),
    holder,
  );
  let side = 0,
    left = 0; // pixels to the left of the first map

  function draw(state) {
    if (!element.open) return;
    const width = isPrinting() ? paperRoom() : holder.clientWidth;
    if (!width) return;
    left = NAMES_LEFT * parseFloat(getComputedStyle(document.documentElement).fontSize);
    side = Math.max(10, Math.min(isPrinting() ? PRINTED : LARGEST, (width - left) / run.H - SPACE));
    const context = sized(canvas, left + run.H * (side + SPACE), TOP + run.L * (side + SPACE));
    const style = getComputedStyle(element);
    context.font = canvasFont(0.75);
    context.fillStyle = style.color;
    context.fillText("head", 0, TOP - 6);
    for (let layer = 0; layer < run.L; layer++) {
      context.fillStyle = style.color;
      context.fillText(`layer ${layer}`, 0, place(0, layer).y + side / 2 + 4);
      for (let head = 0; head < run.H; head++) {
        const { x, y } = place(head, layer);
        context.fillStyle = style.getPropertyValue("--wash");
        context.fillRect(x, y, side, side);
        paintPattern(context, run, { layer, head }, { x, y, side });
        context.fillStyle = style.color;
        if (!layer && (side >= 20 || head % 2 === 0)) context.fillText(String(head), x + side / 2 - 4, TOP - 6);
        if (run.marks?.head(layer, head)) marker(context)(x + side, y, Math.min(12, side / 2));
        if (layer === state.layer && head === state.head) {
          context.strokeStyle = style.getPropertyValue("--accent");
          context.lineWidth = 2.5;
          context.strokeRect(x, y, side, side);
        }
      }
    }
  }

  function place(head, layer) {
    return { x: left + head * (side + SPACE), y: TOP + layer * (side + SPACE) };
  }

  function under(event) {
    const head = Math.floor((event.offsetX - left) / (side + SPACE));
    const layer = Math.floor((event.offsetY - TOP) / (side + SPACE));
    return head >= 0 && head < run.H && layer >= 0 && layer < run.L ? { layer, head } : null;
  }
  canvas.onclick = (event) => {
    const hit = under(event);
    if (hit) focus.set(hit);
  };
  canvas.onmousemove = (event) => {
    const hit = under(event);
    if (hit) showTip(event, `layer ${hit.layer}, head ${hit.head}`);
    else hideTip();
  };
  canvas.onmouseleave = hideTip;
  return { element, draw };
}

/** Paint a head's pattern of so many positions from `first` on into a square of that side; its squares stay squares. */
export function paintPattern(context, run, { layer, head }, { x, y, side, first }) {
  const pattern = patternOf(run, layer, head, first);
  context.imageSmoothingEnabled = pattern.width > side;
  context.drawImage(pattern, x, y, side, side);
}

// A pixel for each pair of positions.
function patternOf(run, layer, head, first = Math.max(0, run.T - PIXELS)) {
  const count = Math.min(run.T - first, PIXELS);
  const canvas = el("canvas", { width: count, height: count });
  const context = canvas.getContext("2d");
  for (let query = first; query < first + count; query++) {
    const weights = run.weights(layer, head, query);
    for (let key = Math.max(first, run.firstSeen(layer, query)); key <= query; key++) {
      context.fillStyle = colour("share", Math.sqrt(weights[key]));
      context.fillRect(key - first, query - first, 1, 1);
    }
  }
  return canvas;
}
