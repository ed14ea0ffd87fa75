// A window of positions: which stretch of a long text a picture shows, the words that say so, and the handle that moves it.

import { el } from "./drawing.js";

/** The window of a picture; `redraw()` is called when its handle moves. */
export function positionWindow(run, redraw) {
  let moved = null; // where it begins, if that was chosen by hand
  let lastPos = null;
  const said = el("span", {});
  const handle = el("input", {
    type: "range",
    min: 0,
    "aria-label": "first position of the window",
    oninput: () => {
      moved = Number(handle.value);
      redraw();
    },
  });
  const element = el("p", { class: "window", hidden: true }, said, handle);

  /** Where a window of so many positions begins: where the handle put it, or else at `wanted`. */
  function begin(count, wanted) {
    return Math.min(Math.max(0, moved ?? wanted), run.T - count);
  }

  /** What the handle chose is given up when another position is chosen that lies outside of it. */
  function follow(pos, count) {
    if (moved !== null && pos !== lastPos && (pos < moved || pos >= moved + count)) moved = null;
    lastPos = pos;
  }

  /** Say what is shown; a picture of the whole text says nothing. */
  function tell(text, first, count) {
    element.hidden = count >= run.T;
    said.textContent = element.hidden ? "" : `${text} `;
    handle.max = String(Math.max(0, run.T - count));
    handle.value = String(first);
  }
  return { element, begin, follow, tell };
}
