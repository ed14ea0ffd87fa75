// Marks of change: what of a run is not as in the run that it is compared with. The one place that says what counts as a change.

import { el } from "./drawing.js";
import { aligned, movedHeads } from "./live_difference.js";

const MOVED = 0.05; // of a vector's length, of all attention, of a probability of 1, of the largest number of a picture

const UNMARKED = ["weights", "generation", "changes", "glossary"]; // panels that compare nothing, or nothing else

/** The line that says what the marks mean, with a box that turns them off; `turned` hears of that. */
export function buildLegend(turned) {
  const box = el("input", { type: "checkbox", checked: true, onchange: turned }),
    told = el("span", {}),
    element = el("p", { class: "legend small" }, el("label", { class: "on-screen" }, box, " mark what changed "), told);

  /** `live` has {before, why, run}. */
  function draw({ before, why, run }, { panel, pos }) {
    element.hidden = !before;
    element.classList.toggle("only-on-paper", UNMARKED.includes(panel)); // a print has all panels
    const alone = run.marks?.was(pos) === null ? " The chosen position is new, and has nothing to be compared with." : "";
    told.replaceChildren(...(run.marks ? [el("span", { class: "mark-sign", "aria-hidden": "true" }), `${meaning(why)}${alone}`] : []));
  }
  return { element, draw, wanted: () => box.checked };
}

function meaning(why) {
  const percent = `${100 * MOVED} %`;
  return (
    ` not as in ${why}: another word in first place, a share or probability that moved by more than ${100 * MOVED} points, ` +
    `a vector by more than ${percent} of its length, any other number by more than ${percent} of the largest beside it. ` +
    "Dashed: a token that is new, or a curve as it was."
  );
}

/** Answers of one run, `after`, held against another, `before`. A position that is new has nothing to be compared with. */
export class Marks {
  constructor(before, after) {
    this.before = before;
    this.after = after;
    this.places = aligned(before, after);
    this.heads = null;
  }

  /** Where a position was before; null if it is new. */
  was(pos) {
    return this.places[pos] ?? null;
  }

  /** Whether a token is new, or another one. */
  isNew(pos) {
    const was = this.was(pos);
    return was === null || this.before.ids[was] !== this.after.ids[pos];
  }

  /** How far a vector has moved, as a share of its length; null where that is not known. */
  distance(site, layer, pos, head = 0) {
    const was = this.was(pos),
      x = was === null ? null : this.before.strip(site, layer, was, head),
      y = this.after.strip(site, layer, pos, head);
    if (!x || !y) return null;
    let moved = 0,
      size = 0;
    for (let i = 0; i < x.length; i++) {
      const apart = y[i] - x[i];
      moved += apart * apart;
      size += x[i] * x[i];
    }
    return size ? Math.sqrt(moved / size) : moved ? Infinity : 0;
  }

  vector(site, layer, pos, head = 0) {
    return this.distance(site, layer, pos, head) > MOVED;
  }

  /** A row of the map: the vector of a site, of a site with heads that of any of them. */
  row(site, layer, pos) {
    const heads = Array.from({ length: this.after.H }, (_, head) => head);
    if (site === "attn.scores" || site === "attn.pattern") return heads.some((head) => this.looks(layer, head, pos));
    return (this.after.perHead(site) ? heads : [0]).some((head) => this.vector(site, layer, pos, head));
  }

  // -- attention --------------------------------------------------------------------------------------

  /** What a query gave to each of the keys that it has now; null where the query is new. */
  shares(layer, head, query) {
    const was = this.was(query);
    if (was === null) return null;
    const x = this.before.weights(layer, head, was);
    return Float32Array.from({ length: query + 1 }, (_, key) => x[this.places[key] ?? -1] ?? 0);
  }

  /** Of each key of a query, whether its share has moved; null where the query is new. */
  lookedAt(layer, head, query) {
    const x = this.shares(layer, head, query),
      y = x && this.after.weights(layer, head, query);
    return x && Array.from(x, (share, key) => Math.abs(y[key] - share) > MOVED);
  }

  /** Whether a query of a head looks elsewhere. */
  looks(layer, head, query) {
    return Boolean(this.lookedAt(layer, head, query)?.includes(true));
  }

  /** Whether a head looks elsewhere, in the mean over the text. */
  head(layer, head) {
    this.heads ??= movedHeads(this.before, this.after);
    return this.heads[layer][head] > MOVED;
  }

  // -- predictions --------------------------------------------------------------------------------------

  /** A token that may follow a position, by its probability now. */
  next(pos, id, p) {
    return this.chance("next", [this.was(pos)], id, p);
  }

  /** The same of the logit lens at a point of the stream. */
  lens(point, pos, id, p) {
    return this.chance("lens", [point, this.was(pos)], id, p);
  }

  /** Whether another word is in first place at a point, or its probability has moved. */
  first(point, pos) {
    const was = this.was(pos),
      before = was === null ? null : this.before.at("lens:id", point, was),
      now = this.after.at("lens:id", point, pos);
    return Boolean(before && now) && (before[0] !== now[0] || this.lens(point, pos, now[0], this.after.at("lens:p", point, pos)[0]));
  }

  chance(name, where, id, p) {
    const ids = where.includes(null) ? null : this.before.at(`${name}:id`, ...where);
    if (!ids) return false;
    const chances = this.before.at(`${name}:p`, ...where),
      i = ids.indexOf(id);
    return i < 0 ? p - chances[chances.length - 1] > MOVED : Math.abs(p - chances[i]) > MOVED;
  }

  /** Ranks of a token at every point before; null where they are not known. */
  ranks(pos, id) {
    const was = this.was(pos),
      i = was === null ? -1 : (this.before.at("follow:id", was)?.indexOf(id) ?? -1);
    if (i < 0) return null;
    const ranks = Array.from({ length: 2 * this.after.L + 1 }, (_, point) => this.before.at("follow:rank", point, was)?.[i]);
    return ranks.includes(undefined) ? null : ranks;
  }

  // -- other numbers ------------------------------------------------------------------------------------

  /** What every component pushed a token by before; null where that is not known. */
  pushes(pos, id) {
    const was = this.was(pos),
      i = was === null ? -1 : (this.before.at("push:id", was)?.indexOf(id) ?? -1);
    return i < 0 ? null : this.before.at("push", was, i);
  }

  /** Whether a number has moved, beside others of which the largest is `most`. */
  number(before, now, most) {
    return Math.abs(now - before) > MOVED * most;
  }

  /** A neuron's activation now. */
  neuron(layer, pos, id, now, most) {
    const was = this.was(pos),
      before = was === null ? undefined : this.before.strip("mlp.post", layer, was)?.[id];
    return before !== undefined && this.number(before, now, most);
  }

  /** A vector's length now. */
  norm(site, layer, pos, now, most) {
    const was = this.was(pos),
      before = was === null ? null : this.before.stats(site, layer, was);
    return Boolean(before) && this.number(before.norm, now, most);
  }

  /** A row of numbers that belong to positions, as it was at one of them: [point]; null if the position is new. */
  curve(name, pos) {
    const was = this.was(pos);
    return was === null ? null : Array.from({ length: 2 * this.after.L + 1 }, (_, point) => this.before.at(name, point)[was]);
  }
}
