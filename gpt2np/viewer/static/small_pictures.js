// Small pictures in a text: bars and maps, drawn from the numbers that their figures carry. The tables stay.

import { bar, colour, el, markedLabel, place } from "./drawing.js";

/** Numbers as bars; the table of the figure opens below them. */
function drawBars(figure, picture, table) {
  const whole = picture.left + picture.right || 1, // 0 is where what goes to the left ends
    signed = picture.left > 0;
  const rows = picture.values.map((value, i) => {
    const number = picture.numbered ? el("span", { class: "aside" }, `${i} `) : null,
      name = [number, markedLabel(picture.labels[i])];
    const length = (value ?? 0) / whole,
      row = bar(el("span", {}, name), length, picture.texts[i], { kind: signed ? "push" : "share" });
    row.querySelector(".fill").style.marginLeft = `${(100 * (picture.left + Math.min(0, value ?? 0))) / whole}%`;
    return row;
  });
  const drawn = el("div", { class: "bars", "aria-hidden": "true" }, rows);
  table.before(drawn);
  const numbers = el("details", {}, el("summary", {}, "The same as a table"));
  table.replaceWith(numbers);
  numbers.append(table);
}

/** A map of numbers: the cells of the table itself get the colours of the page, in its present theme. */
function colourCells(picture, table) {
  const flat = picture.values.flat().map((value) => value ?? 0),
    most = Math.max(...flat.map(Math.abs)) || 1,
    signed = flat.some((value) => value < 0),
    scale = signed ? "diverging" : "share";
  [...table.querySelectorAll("tr")].slice(1).forEach((row, i) =>
    row.querySelectorAll("td").forEach((cell, j) => {
      const value = picture.values[i][j];
      if (value == null) return; // it is hatched already
      const at = signed ? place(value, most) : Math.sqrt(value / most),
        paint = colour(scale, at);
      cell.style.background = paint;
      cell.style.color = inkOn(paint);
    }),
  );
}

/** Black or white, whichever is easier to read on a colour. */
function inkOn(paint) {
  const [r, g, b] = paint.match(/\d+/g).map((part) => {
    const share = Number(part) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

function drawPictures() {
  for (const figure of document.querySelectorAll("figure[data-picture]")) {
    const picture = JSON.parse(figure.dataset.picture),
      table = figure.querySelector("table");
    if (picture.kind === "heatmap") colourCells(picture, table);
    else if (!figure.querySelector(".bars")) drawBars(figure, picture, table);
  }
}

drawPictures();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPictures);
{
  const root = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light"; // paper is white
    drawPictures();
  });
  addEventListener("afterprint", () => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    drawPictures();
  });
}
