// Drawing: elements, tokens as text, numbers as text, colours, strips.

/** An element with attributes, listeners (`onclick`) and children; strings become text, never markup. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

/** The same for SVG. What would lie at no number is left out: a run may have broken numbers. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "points")
      made.setAttribute(
        name,
        value
          .split(" ")
          .filter((pair) => !pair.includes("NaN"))
          .join(" "),
      );
    else if (Number.isNaN(value)) made.setAttribute("display", "none");
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

// -- text -----------------------------------------------------------------------------------------

const MARKS = { "\n": "⏎", "\r": "␍", "\t": "⇥", " ": "·" };
const HIDDEN = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b\u200e\u200f\u2028-\u202f\u2060-\u206f\ufeff]/;

/** A token with its spaces, line ends and invisible characters shown. */
export function visible(token) {
  let shown = "";
  for (const c of token) {
    if (c in MARKS) shown += MARKS[c];
    else if (HIDDEN.test(c)) shown += `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`;
    else shown += c;
  }
  if (/^\p{M}/u.test(shown)) return `◌${shown}`; // a mark needs something to stand on
  return shown || "∅";
}

/** A token as an element of its own direction, its marks paler than its letters. */
export function tokenLabel(token, longest = 24) {
  return markedLabel(shortened(visible(token), longest));
}

/** A text of at most so many characters. */
export function shortened(text, longest) {
  return [...text].length > longest ? `${[...text].slice(0, longest - 1).join("")}…` : text;
}

/** A text in which marks are shown already, as an element: the marks are paler than the letters. */
export function markedLabel(text) {
  const parts = text.split(/([·⏎␍⇥]+|(?:\\u[0-9a-f]{4,5}|\P{M}\p{M}*)[¹²³⁴⁵⁶⁷⁸⁹]⁄[₁₂₃₄₅₆₇₈₉])/u).filter(Boolean);
  const dimmed = (part) => (/^[·⏎␍⇥]/.test(part) ? el("span", { class: "mark" }, part) : part.includes("⁄") ? el("span", { class: "piece" }, part) : part);
  return el("bdi", { class: "token" }, parts.map(dimmed));
}

/** For names that are read aloud or shown on canvas: quoted and isolated from the text around. */
export function quoted(token) {
  return `‘\u2068${visible(token)}\u2069’`;
}

const RIGHT_TO_LEFT = /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

/** The direction in which a text is read: that of its first letter. Tokens are isolated, so that `dir="auto"` finds none in them. */
export function directionOf(text) {
  return RIGHT_TO_LEFT.test(text.match(/\p{L}/u)?.[0] ?? "") ? "rtl" : "ltr";
}

/** A number with so many significant digits. */
export function digits(x, n = 3) {
  if (x == null || Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return powerOfTen(x.toExponential(n - 1));
  const places = size === 0 ? 0 : Math.max(0, n - 1 - Math.floor(Math.log10(Number(size.toPrecision(n)))));
  return Number(x.toPrecision(n)).toFixed(places).replace("-", "−");
}

/** "1.2e-4" as it is written by hand: 1.2·10⁻⁴. */
function powerOfTen(text) {
  const [mantissa, exponent] = text.split("e");
  const raised = [...exponent.replace("+", "")].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
  return `${mantissa.replace("-", "−")}·10${raised.join("")}`;
}

/** A number with its sign. */
export function signed(x, places = 2) {
  const text = Math.abs(x).toFixed(places);
  return Number(text) === 0 ? text : `${x < 0 ? "−" : "+"}${text}`;
}

/** A probability in percent, two places; what these would write as none or all says that it is not quite that. */
export function percent(p) {
  if (p == null || Number.isNaN(p)) return "–";
  if (p > 0 && p < 0.00005) return "< 0.01 %";
  if (p < 1 && p >= 0.99995) return "> 99.99 %";
  return `${(100 * p).toFixed(2)} %`;
}

/** The same without places, and without the sign where there is no room for it. */
export function wholePercent(p, sign = " %") {
  if (Number.isNaN(p)) return "–";
  if (p > 0 && p < 0.005) return `<${sign && " "}1${sign}`;
  return p < 1 && p >= 0.995 ? `>${sign && " "}99${sign}` : `${Math.round(100 * p)}${sign}`;
}

// -- colours --------------------------------------------------------------------------------------

// Blue and orange are told apart by every eye; the middle is the paper. Viridis for shares, light end on paper.
export const SCALES = {
  light: {
    diverging: [
      [8, 69, 148],
      [66, 133, 197],
      [173, 205, 230],
      [247, 246, 242],
      [250, 196, 136],
      [224, 122, 27],
      [153, 64, 4],
    ],
    share: [
      [251, 250, 245],
      [214, 230, 150],
      [122, 205, 100],
      [38, 160, 133],
      [43, 112, 142],
      [62, 64, 134],
      [62, 8, 84],
    ],
    chance: [
      [250, 249, 245],
      [190, 222, 220],
      [99, 177, 181],
      [27, 116, 130],
      [8, 68, 84],
    ],
  },
  dark: {
    diverging: [
      [148, 204, 255],
      [70, 148, 224],
      [36, 78, 122],
      [30, 33, 39],
      [124, 76, 30],
      [226, 134, 46],
      [255, 200, 122],
    ],
    share: [
      [26, 28, 34],
      [60, 42, 104],
      [58, 82, 139],
      [33, 144, 141],
      [92, 200, 99],
      [190, 223, 60],
      [253, 235, 70],
    ],
    chance: [
      [30, 33, 39],
      [24, 70, 80],
      [28, 116, 124],
      [52, 168, 164],
      [140, 224, 205],
    ],
  },
};

/** Whether the page is dark now. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function ramp(stops, t) {
  const x = Math.min(Math.max(t, 0), 1) * (stops.length - 1),
    i = Math.min(Math.floor(x), stops.length - 2),
    f = x - i;
  return stops[i].map((from, channel) => Math.round(from + (stops[i + 1][channel] - from) * f));
}

const palettes = {};
/** 256 CSS colours of a scale (`diverging`, `share`, `chance`) in the present theme. */
function palette(scale) {
  const theme = isDark() ? "dark" : "light";
  const key = `${scale} ${theme}`;
  palettes[key] ??= Array.from(
    { length: 256 },
    (_, i) => `rgb(${ramp(SCALES[theme][scale], i / 255).join(" ")})`,
  );
  return palettes[key];
}

/** One colour of a palette, for a value from 0 to 1; grey for what is no number. */
function pick(colours, t) {
  return Number.isNaN(t) ? "#888" : colours[Math.round(255 * Math.min(Math.max(t, 0), 1))];
}

/** CSS colour of a value from 0 to 1; grey for what is no number. */
export function colour(scale, t) {
  return pick(palette(scale), t);
}

/** A key to a scale: its colours between the words for both ends, or three words where it is not even. */
export function scaleKey(scale, low, ...words) {
  const swatches = (from, to) =>
    Array.from({ length: to - from }, (_, i) => {
      const cell = el("span", {});
      cell.style.background = colour(scale, (from + i) / 15);
      return cell;
    });
  const stretch = (i) => swatches((16 * i) / words.length, (16 * (i + 1)) / words.length);
  const parts = words.flatMap((word, i) => [el("span", { class: "swatches" }, stretch(i)), word]);
  return el("span", { class: "key" }, low, parts);
}

/** Whether white text stands out from that colour more than black: of the two contrasts the larger one. */
export function darkOn(scale, t) {
  const channels = ramp(SCALES[isDark() ? "dark" : "light"][scale], t || 0).map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  const light = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2];
  return 1.05 / (light + 0.05) > (light + 0.05) / 0.05;
}

/** What counts as full colour in a vector: the size that 97 of 100 cells do not exceed. */
export function fullColour(cells) {
  const sizes = Float32Array.from(cells, (x) => (Number.isFinite(x) ? Math.abs(x) : 0)).sort();
  return sizes[Math.min(sizes.length - 1, Math.floor(0.97 * sizes.length))] || sizes[sizes.length - 1] || 1;
}

/** Place of a value on the diverging scale, 0 to 1, given the size of full colour. */
export function place(x, full) {
  return Number.isNaN(x) ? NaN : 0.5 + 0.5 * Math.sign(x) * Math.min(1, Math.abs(x) / full) ** 0.8;
}

/** Whether the page is being laid out for the printer. */
export function isPrinting() {
  return document.documentElement.classList.contains("printing");
}

/** How wide a square picture may be on paper, in pixels: so that a list fits beside it; in the tour's handout a stop. */
export function paperRoom() {
  return document.documentElement.dataset.tour ? 225 : 480;
}

const SMALLEST_PRINTED = 10.2; // pixels of a letter on a canvas: 6.5 pt on paper

// -- canvases -------------------------------------------------------------------------------------

export const SAVED = 3; // pixels of a saved figure for each pixel of the page
let least = 1; // pixels of a canvas for each pixel of the page

/** What `make` makes of canvases that are as sharp as a saved figure; `redraw` draws them. */
export function inSavedSharpness(redraw, make) {
  least = SAVED;
  redraw();
  const made = make();
  least = 1;
  redraw();
  return made;
}

/** A canvas as sharp as the screen: sets its size in CSS pixels, returns its context. */
export function sized(canvas, width, height) {
  const ratio = Math.max(window.devicePixelRatio || 1, isPrinting() ? 2.5 : least);
  const w = Math.max(1, Math.round(width * ratio)),
    h = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(w / width, 0, 0, h / height, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** A font of the page for text on a canvas, its size in rem. */
export function canvasFont(size, bold = false) {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const pixels = Math.max(size * rem, isPrinting() ? SMALLEST_PRINTED : 0);
  return `${bold ? "600 " : ""}${pixels}px system-ui, sans-serif`;
}

/** One vector as a row of cells at (x, y); of a narrow row each pixel takes the largest cell under it. */
export function paintStrip(context, cells, x, y, width, height, full = null) {
  const ratio = context.canvas.width / (parseFloat(context.canvas.style.width) || 1);
  const columns = Math.max(1, Math.min(cells.length, Math.round(width * ratio)));
  const shown = columns === cells.length ? cells : largest(cells, columns);
  full ??= columns < cells.length / 2 ? 1.5 * fullColour(shown) : fullColour(cells);
  const colours = palette("diverging"); // once a strip: asking for the theme takes time
  for (let i = 0; i < columns; i++) {
    const left = x + (i * width) / columns;
    const right = x + ((i + 1) * width) / columns;
    context.fillStyle = pick(colours, place(shown[i], full));
    context.fillRect(left, y, right - left + (i < columns - 1 ? 0.3 : 0), height); // no seams
  }
}

// Of each group of neighbours the one of the largest magnitude, as packing.py does it.
function largest(cells, columns) {
  return Float32Array.from({ length: columns }, (_, i) => {
    let best = 0;
    const end = Math.max(
      Math.floor(((i + 1) * cells.length) / columns),
      Math.floor((i * cells.length) / columns) + 1,
    );
    for (let j = Math.floor((i * cells.length) / columns); j < end; j++)
      if (!(Math.abs(cells[j]) <= Math.abs(best))) best = cells[j];
    return best;
  });
}

// -- the tip that follows the pointer ---------------------------------------------------------------

let tip = null;
/** Show lines of text beside the pointer; without lines, hide it. */
export function showTip(event, ...lines) {
  tip ??= document.body.appendChild(el("div", { class: "tip", "aria-hidden": "true" }));
  tip.hidden = !lines.length;
  if (!lines.length) return;
  tip.replaceChildren(...lines.map((line) => el("div", {}, line)));
  const { width, height } = tip.getBoundingClientRect();
  const x = event.clientX + 14 + width > innerWidth ? event.clientX - width - 10 : event.clientX + 14;
  const y = event.clientY + 16 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 16;
  tip.style.left = `${Math.max(4, x)}px`;
  tip.style.top = `${Math.max(4, y)}px`;
}
export function hideTip() {
  if (tip) tip.hidden = true;
}

/** Mark an element as changed, by its corner, and by a word for those who do not see that; or take the mark away. */
export function marked(element, changed) {
  element.classList.toggle("marked", Boolean(changed));
  if (changed) element.setAttribute("aria-description", "changed");
  else element.removeAttribute("aria-description");
  return element;
}

/** What paints the same mark on a canvas: a corner of so many pixels at the top right of a box. */
export function marker(context) {
  const style = getComputedStyle(context.canvas),
    [ink, paper] = ["--ink", "--paper"].map((name) => style.getPropertyValue(name));
  return (right, top, side) => {
    context.beginPath();
    context.moveTo(right - side, top);
    context.lineTo(right, top);
    context.lineTo(right, top + side);
    context.closePath();
    Object.assign(context, { fillStyle: ink, strokeStyle: paper, lineWidth: 0.8 });
    context.fill();
    context.stroke();
  };
}

/** A labelled bar: label, bar from 0, number. `share` is its length, from -1 to 1; `moved` marks it as changed. */
export function bar(label, share, text, { chosen = false, onclick = null, kind = "", moved = false } = {}) {
  const fill = el("span", { class: `fill ${kind} ${share < 0 ? "negative" : ""}` });
  fill.style.width = `${100 * Math.min(1, Math.abs(share))}%`;
  const parts = [
    el("span", { class: "name", title: typeof label === "string" ? label : null }, label),
    el("span", { class: "track" }, fill),
    el("span", { class: "value" }, text),
  ];
  const shape = `bar${chosen ? " chosen" : ""}`;
  const made = onclick
    ? el("button", { class: shape, type: "button", onclick, "aria-pressed": String(chosen) }, parts)
    : el("div", { class: shape }, parts);
  return marked(made, moved);
}

/** A paragraph that says why something is not there. */
export function absent(run, part, what) {
  return el(
    "p",
    { class: "absent" },
    `${what} not in this page${run.missing[part] ? `: ${run.missing[part]}` : run.detail.compact ? ": this is the compact view, gpt2np.view(trace) has it" : ""}.`,
  );
}
