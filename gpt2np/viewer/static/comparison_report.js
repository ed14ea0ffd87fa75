// The report of a comparison: the verdict, where it goes wrong, why, and every site that was compared.

import { unpack } from "./run_data.js";
import { darkOn, colour, digits, el, hideTip, showTip } from "./drawing.js";

/** Place of a ratio (error over the noise that is expected) on the colour scale: 1 is the edge, 100 the end. */
export function ratioPlace(ratio) {
  if (ratio === null) return 1;
  return ratio <= 1 ? 0.5 - 0.28 * (1 - ratio) : 0.5 + 0.5 * Math.min(1, Math.log10(Math.max(ratio, 1)) / 2);
}

function showReport(report) {
  const mark = { "within-noise": "✓", incomplete: "?", suspicious: "?", wrong: "✗" }[report.verdict] ?? "";
  const where = report.site
    ? [
        `first at `,
        el("code", {}, report.site),
        report.layer === null ? "" : `, layer ${report.layer}`,
        report.head === null ? "" : `, head ${report.head}`,
        report.position === null ? "" : `, from position ${report.position} on`,
      ]
    : ["every site that was compared agrees with the truth as well as float32 can"];
  const wrong = report.rows.filter((row) => row.verdict !== "within-noise").length;
  const page = [
    el(
      "header",
      { class: "top" },
      el(
        "div",
        { class: "title" },
        el("h1", {}, "gpt2np compare"),
        el("p", { class: "facts" }, [report.source, report.model].filter(Boolean).join(" against ")),
      ),
    ),
    el(
      "section",
      { class: `verdict ${report.verdict}`, role: "status" },
      el(
        "p",
        { class: "big" },
        el("span", { class: "mark", "aria-hidden": "true" }, mark),
        ` ${report.said}`,
      ),
      el("p", {}, ...where),
      el(
        "p",
        { class: "small" },
        `${report.rows.length} sites compared, ${wrong} outside the noise.${report.pattern ? ` The first error is ${report.pattern}.` : ""}`,
      ),
    ),
  ];
  if (report.site) page.push(el("div", { class: "two report-two" }, cause(report), step(report)));
  page.push(
    el("h3", {}, "Every site"),
    el(
      "p",
      { class: "small" },
      "Steps down, layers across. The number is the error over the noise that float32 must be allowed: up to 1 is within noise (blue), above it orange.",
    ),
    siteMap(report),
  );
  const lists = [
    [
      "Also possible",
      report.candidates.slice(1).map((c) => `${c.mistake}${c.explanation ? `: ${c.explanation}` : ""}`),
    ],
    ["Notes", report.notes],
    ["Names that were not known", report.unknown],
    ["Refused", report.refused],
  ];
  for (const [title, lines] of lists)
    if (lines.length)
      page.push(
        el("h3", {}, title),
        el(
          "ul",
          {},
          lines.map((line) => el("li", {}, line)),
        ),
      );
  document.getElementById("page").replaceChildren(...page);
}

// The known mistake that explains it, and its cure; or honestly none.
function cause(report) {
  if (report.excused || (report.unused && !report.mistake))
    return el(
      "div",
      { class: "card still" },
      el("h3", {}, "No mistake in the computation"),
      el(
        "p",
        {},
        report.excused
          ? `What is recorded differs, not what was computed: ${report.pattern}.`
          : "What follows is right: this array was recorded wrongly, or changed after use.",
      ),
    );
  const ended = report.ended === null ? "" : `The search ended after ${report.ended} s, before all mistakes had been tried.`;
  const none = ended || "The step is located, its cause is not in the catalogue.";
  if (!report.mistake)
    return el(
      "div",
      { class: "card still" },
      el("h3", {}, ended ? "No mistake found" : "No known mistake explains it"),
      el(
        "p",
        {},
        none,
        " Everything before it is right: compare this one step by hand.",
      ),
    );
  return el(
    "div",
    { class: "card still" },
    el("p", { class: "small" }, "The mistake that explains it"),
    el("h3", {}, report.mistake),
    report.detail ? el("p", { class: "small" }, report.detail) : null,
    el("p", {}, report.explanation ?? ""),
    report.cure ? el("p", {}, el("strong", {}, "Cure: "), report.cure) : null,
    ended ? el("p", { class: "small" }, ended, " Another may fit as well.") : null,
  );
}

// The step as the forward pass has it.
function step(report) {
  const line = report.line;
  if (!line) return el("div", {});
  return el(
    "div",
    { class: "card still" },
    el("p", { class: "small" }, "The step as it should be"),
    el("h3", {}, line.title),
    el("p", { class: "formula" }, line.formula),
    el("p", { class: "small" }, `${line.file}, line ${line.line}`),
    el("code", { class: "line" }, line.code),
  );
}

function siteMap(report) {
  const columns = Math.max(1, report.layers),
    found = new Map(report.rows.map((row) => [`${row.step} ${row.layer}`, row]));
  const head = el(
    "tr",
    {},
    el("th", { scope: "col" }, "step"),
    Array.from({ length: columns }, (_, layer) =>
      el("th", { scope: "col" }, report.layers ? String(layer) : ""),
    ),
  );
  const rows = report.steps.map(({ name, layered }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      layered
        ? Array.from({ length: columns }, (_, layer) =>
            el("td", {}, cell(found.get(`${name} ${layer}`), report)),
          )
        : el("td", { colspan: columns }, cell(found.get(`${name} null`), report)),
    ),
  );
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "error of every site" },
    el("table", { class: "sites" }, el("thead", {}, head), el("tbody", {}, rows)),
  );
}

function cell(row, report) {
  if (!row) return el("span", { class: "none" }, "");
  const t = ratioPlace(row.ratio),
    first = row.site === report.site,
    text =
      row.ratio === null
        ? "∞"
        : row.ratio >= 1000
          ? Math.round(row.ratio).toLocaleString("en")
          : digits(row.ratio, 2);
  const lines = [
    `${row.site}: ${row.verdict}`,
    `error ${digits(row.error)}, noise ${digits(row.band)}`,
    row.excused ? `${row.pattern} (no mistake in the computation)` : row.pattern,
    row.name && row.name !== row.site ? `theirs: ${row.name}${row.layout ? `, ${row.layout}` : ""}` : null,
    ...row.notes,
  ].filter(Boolean);
  const made = el(
    "button",
    {
      type: "button",
      class: `${darkOn("diverging", t) ? "light-ink" : "dark-ink"} ${first ? "first" : ""}`,
      "aria-label": lines.join(". "),
      title: lines.join("\n"),
      onmousemove: (event) => showTip(event, ...lines),
      onmouseleave: hideTip,
    },
    text,
  );
  made.style.background = colour("diverging", t);
  return made;
}

unpack(document.getElementById("data").textContent)
  .then(({ header }) => {
    showReport(header);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => showReport(header));
    Object.defineProperty(window, "gpt2np", { value: Object.freeze({ report: header }) });
  })
  .catch((error) => {
    document
      .getElementById("page")
      .replaceChildren(
        el("p", { class: "waiting", role: "alert" }, `This page could not be shown. ${error.message}`),
      );
    throw error;
  });
