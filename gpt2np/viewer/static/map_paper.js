// The left of the map on paper. A canvas never breaks between two pages: each row of the map takes its piece of it along.

import { el, isPrinting } from "./drawing.js";

/** For the printer: the canvas in pieces, each beside the row that stands at its height; else the canvas itself. */
export function putOnPaper(streams, flow) {
  const canvas = streams.querySelector("canvas");
  for (const piece of flow.querySelectorAll(".beside")) piece.remove();
  canvas.hidden = false;
  if (!isPrinting()) return;
  const from = canvas.getBoundingClientRect();
  const rows = [...flow.querySelectorAll(".start, .open > .layer-title, .row")]; // one below the other, without a gap
  for (const { row, box } of rows.map((row) => ({ row, box: row.getBoundingClientRect() }))) {
    if (box.top >= from.bottom) continue;
    const piece = el("span", { class: "beside", "aria-hidden": "true" });
    Object.assign(piece.style, {
      left: `${from.left - box.left}px`,
      width: `${from.width}px`,
      height: `${Math.min(box.bottom, from.bottom) - box.top}px`,
      backgroundSize: `${from.width}px ${from.height}px`,
      backgroundPosition: `0 ${from.top - box.top}px`,
    });
    row.append(piece);
  }
  flow.style.setProperty("--streams", `url(${canvas.toDataURL()})`);
  canvas.hidden = true;
}
