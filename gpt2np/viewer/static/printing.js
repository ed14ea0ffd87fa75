// The page made ready for the printer before it lays anything out, and afterwards made as it was; what paper cannot have is said.

import { el, isPrinting, quoted } from "./drawing.js";

/** `on()` gives the page the layout of the print, which has a width of its own, is light, and has nothing folded; `off()` takes it away. */
export function buildPrinting(run, focus) {
  const root = document.documentElement;
  const note = el("p", { class: "print-only small paper-note" });
  let undo = [];

  function on(main) {
    off();
    const { theme } = root.dataset;
    root.dataset.theme = "light";
    root.classList.add("printing");
    undo.push(() => {
      root.classList.remove("printing");
      if (theme === undefined) delete root.dataset.theme;
      else root.dataset.theme = theme;
    });
    for (const rule of rulesOfScreens()) {
      const { mediaText } = rule.media;
      rule.media.mediaText = "not all"; // canvases are drawn as wide as on paper, however narrow the window is
      undo.push(() => {
        rule.media.mediaText = mediaText;
      });
    }
    for (const folded of main.querySelectorAll("details:not([open])")) {
      folded.open = true;
      undo.push(() => {
        folded.open = false;
      });
    }
    note.textContent = leftOut(run, focus.state);
  }

  function off() {
    for (const each of undo.reverse()) each();
    undo = [];
  }
  return { note, on, off, isOn: isPrinting };
}

/** What the print shows of all that there is to choose, and where the rest is. */
function leftOut(run, { pos, layer, head, step }) {
  const chosen = [`position ${pos} (${quoted(run.labels[pos])})`, `layer ${layer}`, `head ${head}`];
  const others = ["positions", "layers", "heads"];
  if (run.generation?.steps.length) {
    chosen.push(`step ${step}`);
    others.push("steps");
  }
  const list = (words) => `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
  const more = [
    run.has("scores") ? "the scores behind each pattern" : "",
    run.matrices?.some(({ name }) => run.has(`matrix:${name}`)) ? "maps of the matrices" : "",
    "the number behind each cell",
  ].filter(Boolean);
  return `This print shows what was chosen: ${list(chosen)}. Paper has no room for the other ${list(others)}, ${list(more)}: they are in the page that this was printed from.`;
}

/** The rules for windows of some width, which a printer does not know. */
function rulesOfScreens() {
  return [...document.styleSheets]
    .flatMap((sheet) => [...sheet.cssRules])
    .filter((rule) => rule instanceof CSSMediaRule)
    .filter((rule) => rule.media.mediaText.startsWith("screen"));
}
