// The figures of the panels: a caption below each, that says of what run and place it is, and buttons that save it.

import { CAPTIONS } from "./captions.js";
import { el, inSavedSharpness, isPrinting } from "./drawing.js";
import { download, pictureOf, pngOf } from "./figure_saving.js";

/** Put captions and buttons below the figures of a panel; returns what renews the captions. */
export function addFigures(panel, run, focus) {
  const made = (CAPTIONS[panel.id] ?? []).flatMap(([selector, name, caption]) => {
    const element = panel.element.querySelector(selector);
    if (!element) return [];
    const told = el("span", {});
    const said = panel.element.querySelector(".window span"); // which stretch of a long text it shows
    const full = () => `${caption(run, focus.state, element)} ${said?.textContent ?? ""}${run.model.name.slice(-60)}, ${run.T} tokens; gpt2np.`;
    const file = `gpt2np-${name}`;
    const save = (kind, write) =>
      el("button", { type: "button", "aria-label": `save as ${kind}: ${name}`, onclick: () => write(draw()) }, kind);
    const redraw = () => focus.told(new Set());
    const draw = () => inSavedSharpness(redraw, () => pictureOf(element, full(), ".save, .card, .toggle, select, .window"));
    const buttons = el(
      "span",
      { class: "save" },
      " save as ",
      save("SVG", ({ text }) => download(new Blob([text], { type: "image/svg+xml" }), `${file}.svg`)),
      " ",
      save("PNG", async (picture) => download(await pngOf(picture), `${file}.png`)),
    );
    const holder = el("div", { class: "figure-holder" });
    element.replaceWith(holder);
    const below = el("p", { class: "caption" }, told, buttons);
    holder.append(element, below);
    return [
      () => {
        told.textContent = caption(run, focus.state, element);
        below.hidden = element.hidden;
        if (!element.matches(".map")) return;
        const first = isPrinting(); // on paper it stands above the map, so that it never is alone on a sheet
        below.classList.toggle("map-caption", first);
        if (first) holder.prepend(below);
        else if (holder.lastChild !== below) holder.append(below);
      },
    ];
  });
  return () => made.forEach((renew) => renew());
}
