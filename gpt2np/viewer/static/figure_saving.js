// Figures as files: what is drawn in an element becomes an SVG of its own, and from that a PNG.

import { SAVED, el } from "./drawing.js";

const NS = "http://www.w3.org/2000/svg";
const SVG_STYLE = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "text-anchor"];
const MARGIN = 12; // pixels around a figure

/** An SVG that shows an element as it is now, with a caption below it; `skip` is a selector of what is left out. */
export function pictureOf(element, caption, skip = ".save") {
  const { scrollLeft, scrollTop } = element;
  element.scrollTo(0, 0); // what scrolls is drawn from its beginning
  const box = element.getBoundingClientRect();
  const style = getComputedStyle(document.body);
  const root = node("svg", { xmlns: NS });
  root.style.fontFamily = style.fontFamily;
  const paper = root.appendChild(node("rect", { fill: style.backgroundColor }));
  const sheet = { root, left: box.left - MARGIN, top: box.top - MARGIN, skip, right: 0, bottom: 0 };
  drawElement(sheet, element);
  element.scrollTo(scrollLeft, scrollTop);
  const lines = wrapped(caption, Math.max(30, Math.floor((sheet.right - MARGIN) / 7)));
  const width = Math.max(sheet.right + MARGIN, ...lines.map((line) => 7 * line.length + 2 * MARGIN));
  const size = { width, height: sheet.bottom + MARGIN + 20 * lines.length };
  for (const [name, value] of Object.entries({ ...size, viewBox: `0 0 ${size.width} ${size.height}` }))
    root.setAttribute(name, value);
  for (const [name, value] of Object.entries(size)) paper.setAttribute(name, value);
  lines.forEach((line, i) =>
    root.append(node("text", { x: MARGIN, y: sheet.bottom + 22 + 20 * i, "font-size": 13, fill: style.color }, line)),
  );
  return { text: new XMLSerializer().serializeToString(root), ...size };
}

/** Put something on the sheet, which grows with it: what is left out leaves no empty space. */
function put(sheet, made, { x, y, width, height }) {
  sheet.root.append(made);
  sheet.right = Math.max(sheet.right, x + width);
  sheet.bottom = Math.max(sheet.bottom, y + height);
}

function node(tag, attributes, text = null) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
}

function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (`${lines.at(-1)} ${word}`.length > width && lines.at(-1)) lines.push("");
    lines[lines.length - 1] = `${lines.at(-1)} ${word}`.trim();
  }
  return lines;
}

// -- from elements to SVG ---------------------------------------------------------------------------

function drawElement(sheet, element) {
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  if (style.display === "none" || style.visibility === "hidden" || !box.width || element.matches(sheet.skip)) return;
  const at = { x: box.left - sheet.left, y: box.top - sheet.top, width: box.width, height: box.height };
  drawBox(sheet, style, at);
  for (const which of ["::before", "::after"]) drawPseudo(sheet, element, which, at);
  if (element instanceof HTMLCanvasElement) put(sheet, node("image", { ...at, href: element.toDataURL() }), at);
  else if (element instanceof SVGSVGElement) put(sheet, copied(element, at), at);
  else
    for (const child of element.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) drawText(sheet, child, style);
      else if (child.nodeType === Node.ELEMENT_NODE) drawElement(sheet, child);
    }
}

function drawBox(sheet, style, at) {
  const seen = (colour) => colour !== "transparent" && !/, 0\)$/.test(colour);
  const border = parseFloat(style.borderBottomWidth) && seen(style.borderBottomColor);
  const around = border && parseFloat(style.borderTopWidth);
  const divider = !border && parseFloat(style.borderRightWidth) && seen(style.borderRightColor);
  if (!seen(style.backgroundColor) && !border && !divider) return;
  const radius = Math.min(parseFloat(style.borderTopLeftRadius) || 0, at.height / 2);
  const shape = {
    ...at,
    rx: style.borderTopLeftRadius.endsWith("%") ? at.height / 2 : radius,
    fill: seen(style.backgroundColor) ? style.backgroundColor : "none",
    ...(around ? { stroke: style.borderBottomColor, "stroke-width": style.borderBottomWidth } : {}),
  };
  put(sheet, node("rect", shape), at);
  if (divider) {
    const width = parseFloat(style.borderRightWidth);
    sheet.root.append(node("rect", { ...at, x: at.x + at.width - width, width, fill: style.borderRightColor }));
  }
  if (border && !around) {
    const height = parseFloat(style.borderBottomWidth);
    sheet.root.append(
      node("rect", { x: at.x, width: at.width, y: at.y + at.height - height, height, fill: style.borderBottomColor }),
    );
  }
}

// What a style sheet adds before and after an element: lines and plus signs at the spine of the map.
function drawPseudo(sheet, element, which, parent) {
  const style = getComputedStyle(element, which);
  if (style.content === "none" || style.content === "normal" || style.position !== "absolute") return;
  const [left, top, width, height] = ["left", "top", "width", "height"].map((name) => parseFloat(style[name]) || 0);
  const at = { x: parent.x + left, y: parent.y + top + (parseFloat(style.marginTop) || 0), width, height };
  drawBox(sheet, style, at);
  const text = style.content.replace(/^"|"$/g, "");
  if (text)
    sheet.root.append(
      node(
        "text",
        { x: at.x + width / 2, y: at.y + height * 0.76, fill: style.color, "font-size": style.fontSize, "text-anchor": "middle" },
        text,
      ),
    );
}

function drawText(sheet, text, style) {
  const range = document.createRange();
  for (const [start, end] of linesOf(text, range)) {
    range.setStart(text, start);
    range.setEnd(text, end);
    const words = range.toString().replace(/\s+/g, " ");
    const box = range.getBoundingClientRect();
    if (!words.trim() || !box.width) continue;
    const size = parseFloat(style.fontSize);
    const [x, y] = [box.left - sheet.left, box.top - sheet.top];
    const attributes = { fill: style.color, "font-size": size, "font-weight": style.fontWeight, opacity: style.opacity };
    const upright = !style.writingMode.startsWith("vertical");
    const place = upright
      ? { x, y: y + box.height / 2 + size * 0.36, textLength: box.width, lengthAdjust: "spacingAndGlyphs" }
      : { transform: `translate(${x + box.width / 2 + size * 0.36} ${y + box.height}) rotate(-90)` };
    const made = node("text", { ...attributes, ...place }, words);
    if (style.fontFamily.includes("mono")) made.setAttribute("font-family", style.fontFamily);
    put(sheet, made, { x, y, width: box.width, height: box.height });
  }
}

// Where the lines of a text begin and end: between words, wherever the next one stands lower.
function linesOf(text, range) {
  const found = [];
  let top = null;
  for (const { index, 0: word } of text.data.matchAll(/\S+\s*/g)) {
    range.setStart(text, index);
    range.setEnd(text, index + word.trimEnd().length);
    const here = range.getBoundingClientRect().top;
    if (top === null || Math.abs(here - top) > 3) found.push([index, index]);
    top = here;
    found.at(-1)[1] = index + word.trimEnd().length;
  }
  return found;
}

// A drawing of the page, its style written into it: a file has no style sheet.
function copied(drawing, at) {
  const copy = drawing.cloneNode(true);
  const originals = [drawing, ...drawing.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((part, i) => {
    const style = getComputedStyle(originals[i]);
    for (const name of SVG_STYLE) part.setAttribute(name, style.getPropertyValue(name));
    part.removeAttribute("class");
  });
  for (const [name, value] of Object.entries(at)) copy.setAttribute(name, value);
  return copy;
}

// -- files ------------------------------------------------------------------------------------------

/** A PNG of a picture, as a Blob. */
export async function pngOf({ text, width, height }) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = el("canvas", { width: Math.ceil(width * SAVED), height: Math.ceil(height * SAVED) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** Hand a file to the reader. */
export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
