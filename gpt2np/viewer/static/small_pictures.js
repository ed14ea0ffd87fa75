// Small pictures in a text: bars and maps, drawn from the numbers that their figures carry. The tables stay.

import { bar, colour, el, place, tokenLabel } from "./drawing.js";

/** Numbers as bars; the table of the figure opens below them. */
function drawBars(figure, picture, table) {
  const most = Math.max(...picture.values.map((value) => Math.abs(value ?? 0))) || 1,
    signed = picture.values.some((value) => value < 0);
  const rows = picture.values.map((value, i) => {
    const name = picture.numbered
      ? [el("span", { class: "aside" }, `${i} `), tokenLabel(picture.labels[i])]
      : picture.labels[i];
    return bar(el("span", {}, name), (value ?? 0) / most, picture.texts[i], { kind: signed ? "push" : "share" });
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
      const value = picture.values[i][j],
        at = signed ? place(value ?? 0, most) : Math.sqrt((value ?? 0) / most),
        paint = value == null ? "none" : colour(scale, at);
      cell.style.background = paint;
      cell.style.color = value == null ? "" : inkOn(paint);
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
