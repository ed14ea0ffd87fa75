// The page of one run: unpacks it and builds it.

import { Run, unpack } from "./run_data.js";
import { el } from "./drawing.js";
import { build } from "./main.js";

/** For tests, and for whoever wants to look: the numbers and the choice. */
function offer(run, { focus, stops }) {
  const offered = {
    run,
    stops,
    get focus() {
      return { ...focus.state };
    },
    show: (change) => focus.set(change),
  };
  Object.defineProperty(window, "gpt2np", { value: Object.freeze(offered) });
}

const holder = document.getElementById("page");
unpack(document.getElementById("data").textContent)
  .then((packed) => {
    const run = new Run(packed);
    offer(run, build(run, holder));
  })
  .catch((error) => {
    const said = `This page could not be shown. ${error.message}`;
    holder.replaceChildren(el("p", { class: "waiting", role: "alert" }, said));
    throw error;
  });
