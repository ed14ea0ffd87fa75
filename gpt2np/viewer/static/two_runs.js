// Two runs in one page: the second one's numbers, and which positions of the two stand side by side.

import { Run } from "./run_data.js";
import { tokenLabel } from "./drawing.js";

const OTHER = "other:"; // begins the names of the second run's arrays
export const ROUNDING = 1e-5; // differences up to this are those of float32: nothing differs
export const WHICH = ["first", "second"];

/** The second run of a page. */
export function otherOf(run) {
  const mine = Object.entries(run.arrays).filter(([name]) => name.startsWith(OTHER));
  const arrays = Object.fromEntries(mine.map(([name, array]) => [name.slice(OTHER.length), array]));
  const { model, detail, parts, vocabulary, against } = run;
  return new Run({ header: { model, detail, parts, vocabulary, ...against }, arrays });
}

/** The two runs with their columns, and the one of them that is chosen. */
export class TwoRuns {
  constructor(run) {
    this.runs = [run, otherOf(run)];
    this.columns = run.against.columns; // [position, position], null where a run has nothing
    this.aligned = run.against.ends ? this.columns.slice(0, -1) : this.columns;
    this.chosen = this.columnOf(run.T - 1);
    this.pos = run.T - 1;
  }

  /** The column of a position of the first run: where both have a token, if there is one; of the last one both ends. */
  columnOf(pos) {
    const held = this.columns.findLastIndex(([a, b]) => a === pos && b !== null);
    return held >= 0 ? held : this.columns.findIndex(([a]) => a === pos);
  }

  /** Follow a position that was chosen elsewhere. */
  follow(pos) {
    if (pos !== this.pos && pos !== this.pair[0]) this.chosen = this.columnOf(pos);
    this.pos = pos;
  }

  /** The positions of the chosen column. */
  get pair() {
    return this.columns[this.chosen];
  }

  /** Whether both runs have a token there. */
  isPair(column = this.chosen) {
    return this.columns[column].every((pos) => pos !== null);
  }

  /** Whether the tokens of a column differ, or one is missing. */
  differs(column) {
    const [a, b] = this.columns[column];
    return a === null || b === null || this.runs[0].ids[a] !== this.runs[1].ids[b];
  }

  /** Row of an array of differences at the chosen column; null where the page has none. */
  at(name, column = this.chosen) {
    const row = column - this.runs[0].against.first;
    return this.isPair(column) && row >= 0 ? this.runs[0].at(name, row) : null;
  }

  /** How far apart a head's attention from the chosen column is, 0 to 1; attention to a token that stands alone counts. */
  patternsApart(layer, head) {
    const [x, y] = this.runs.map((run, i) => run.weights(layer, head, this.pair[i]));
    return this.aligned.reduce((sum, [a, b]) => sum + Math.abs((x[a] ?? 0) - (y[b] ?? 0)), 0) / 2;
  }

  /** The token of a run at the chosen column, with its position. */
  named(i) {
    return [tokenLabel(this.runs[i].labels[this.pair[i]]), ` (${this.pair[i]})`];
  }
}
