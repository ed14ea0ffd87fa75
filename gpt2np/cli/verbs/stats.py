"""`gpt2np stats`: the tables of the baseline notebook for a text, a saved trace or a generation."""

import argparse
import sys
from typing import Any

from gpt2np.characters import readable
from gpt2np.cli.arguments import (
    add_model,
    add_outputs,
    add_prompt,
    add_trace,
    as_run,
    count,
    load_model,
    open_trace,
    read_prompt,
)
from gpt2np.cli.parser import add_note, add_verb
from gpt2np.cli.verbs.printed_arrays import draw
from gpt2np.errors import InputError
from gpt2np.generation.options import ALLOWED
from gpt2np.tables import wrapped

SITES = ["attn.pattern", "embed", "resid_post", "ln_f"]  # what the statistics read
DRAWN = ("entropy", "distance", "first_token", "saturation")
MOST_STEPS = 40  # rows of a table on a terminal; --json has all

EPILOG = """Conventions of the notebook: hidden states are the embedding, the residual stream after each
block but the last, and ln_f's output; their std divides by n - 1; the cosine's verdict changes at 0.5.
--notebook prints line by line what the notebook's cells do, and nothing else: it lists every third layer and
calls the embedding layer 0. Its own run was: --max-new-tokens 40 --repetition-penalty 10. For other ways to
generate:
gpt2np generate --out FILE, then gpt2np stats --trace FILE."""


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "stats",
        stats,
        "stats 'Elizabeth was'",
        "stats 'Elizabeth was' --max-new-tokens 10",
    )
    add_note(verb, EPILOG)
    add_prompt(verb)
    add_trace(verb, "a saved trace instead of a text; needs no model")
    verb.add_argument(
        "--notebook", action="store_true", help="print what the notebook's cells print, line by line"
    )
    verb.add_argument("--max-new-tokens", type=count, metavar="N", help="generate; then also tables by step")
    for option in ("temperature", "repetition_penalty"):
        kind, _, _, allowed = ALLOWED[option]
        flag = "--" + option.replace("_", "-")
        told = f"{allowed}; with --max-new-tokens"
        verb.add_argument(flag, type=kind, metavar=kind.__name__.upper(), help=told)
    verb.add_argument("--seed", type=int, help="makes sampling repeatable")
    verb.add_argument(
        "--step",
        type=int,
        default=0,
        metavar="S",
        help="the step whose layers are shown (default 0, the prompt)",
    )
    verb.add_argument("--every", type=count, metavar="N", help="show every Nth layer (default 1)")
    verb.add_argument(
        "--pos", type=int, default=-1, metavar="P", help="position of the step to compare at (default -1)"
    )
    verb.add_argument(
        "--threshold", type=float, default=0.9, metavar="X", help="attention above it saturates (default 0.9)"
    )
    verb.add_argument(
        "--png", metavar="FILE", help="draw the --draw table of the step: layers down, heads across"
    )
    verb.add_argument("--draw", choices=DRAWN, help="(default entropy)")
    add_outputs(verb, "png")
    add_model(verb)


def stats(args: argparse.Namespace) -> int:
    """`gpt2np stats`."""
    from gpt2np.analysis import baseline_notebook, plot, statistics
    from gpt2np.tables import strict_json

    _check_notebook(args)
    if args.png:
        plot.check_picture(args.png)
    elif args.draw:
        raise InputError("--draw goes with --png FILE")
    run = _run(args)
    n_steps = len(statistics.steps(run))
    if not -n_steps <= args.step < n_steps:
        raise InputError(f"--step {args.step} is not one of 0 to {n_steps - 1}")
    args.step %= n_steps
    if args.png:
        what = args.draw or "entropy"
        options = {"threshold": args.threshold} if what == "saturation" else {}
        drawn = getattr(statistics, what)(run, **options)
        picture = statistics.pick(drawn, "step", args.step)
        draw(picture, args.png, signed=False, run=statistics.trace_of(run))
    if args.notebook:
        print(baseline_notebook.notebook(run))
    else:
        print(strict_json(_facts(run, args)) if args.json else _text(run, args))
    return 0


def _check_notebook(args: argparse.Namespace) -> None:
    """Refuse options that change what the notebook prints."""
    if args.notebook:
        for option, default in (
            ("step", 0),
            ("every", None),
            ("pos", -1),
            ("threshold", 0.9),
            ("json", False),
        ):
            if getattr(args, option) != default:
                raise InputError(f"--{option} does not go with --notebook, which prints the notebook's own")


def _run(args: argparse.Namespace) -> Any:
    """The Trace or the Generated that the options ask for."""
    from gpt2np.generation.saved_generation import is_whole_generation, saved_generation

    chosen = {name: getattr(args, name) for name in ("temperature", "repetition_penalty", "seed")}
    given = {name: value for name, value in chosen.items() if value is not None}
    if given and args.max_new_tokens is None:
        option = "--" + next(iter(given)).replace("_", "-")
        raise InputError(f"{option} needs --max-new-tokens")
    if args.trace is not None:
        if args.text is not None or args.tokens is not None or args.max_new_tokens is not None:
            raise InputError("--trace is instead of a text: give neither TEXT, --tokens nor --max-new-tokens")
        trace = open_trace(args.trace)
        return saved_generation(trace) if is_whole_generation(trace) else trace
    if args.text is None and args.tokens is None:
        raise InputError("give a TEXT, --tokens or --trace FILE, as in: gpt2np stats 'Elizabeth was'")
    prompt = read_prompt(args)
    model = load_model(args, prompt)
    prompt = as_run(args, model, prompt)
    if args.max_new_tokens is None:
        return model.trace(prompt, keep=SITES, special=args.special)
    given |= {"max_new_tokens": args.max_new_tokens, "special": args.special}
    return model.generate(prompt, keep=SITES, **given).finish()


def _facts(run: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Every table whole, for machines."""
    from gpt2np.analysis import baseline_notebook
    from gpt2np.analysis import statistics as s

    trace, comparison = s.trace_of(run), s.layer_comparison(run, args.step, args.pos)
    return {
        "model": trace.metadata.get("model"),
        "config": trace.config.to_dict(),
        "prompt_tokens": len(s.steps(run)[0]),
        "generated_tokens": s.n_generated(run),
        "text": baseline_notebook.text_of(run),
        "steps": [
            {"positions": [step.start, step.stop], "chosen": token}
            for step, token in zip(s.steps(run), _chosen(run), strict=True)
        ],
        "attention": s.attention_statistics(run).to_json(),
        "entropy": s.entropy(run).to_json(),
        "distance": s.distance(run).to_json(),
        "first_token": s.first_token(run).to_json(),
        "saturation": {**s.saturation(run, args.threshold).to_json(), "threshold": args.threshold},
        "hidden_states": s.hidden_state_statistics(run).to_json(),
        "comparison": {**comparison.to_json(), "verdict": s.verdict(comparison.array[-1])},
        "comparison_by_step": s.comparison_by_step(run).to_json(),
    }


def _text(run: Any, args: argparse.Namespace) -> str:
    """The notebook, section by section, then the tables by step."""
    from gpt2np.analysis import baseline_notebook
    from gpt2np.analysis import statistics as s

    step, layers = args.step, range(0, s.trace_of(run).config.n_layer, args.every or 1)
    summary = s.attention_summary(run, args.threshold)
    tables = [s.every_nth(s.pick(t, "step", step), layers) for t in (s.attention_statistics(run), summary)]
    parts = [
        baseline_notebook.architecture(run),
        _wrapped(baseline_notebook.generation(run)),
        baseline_notebook.shapes(run, step),
        baseline_notebook.attention_values(run, step),
        *map(str, tables),
        _hidden_states(run, step, args.every or 1),
        _first_and_last(run, step, args.pos),
    ]
    if s.n_generated(run):
        parts += [_attention_by_step(run), _rest_by_step(run, summary)]
    return "\n\n".join([*parts, baseline_notebook.summary(run)])


def _hidden_states(run: Any, step: int, every: int) -> str:
    """Section 6's table, each hidden state by its own name."""
    from gpt2np.analysis import statistics as s

    named = s.pick(s.hidden_state_statistics(run), "step", step)
    n = len(named.array) - 1  # the embedding and the blocks but the last one; then ln_f
    return str(s.every_nth(named, [*range(0, n, every), n]))


def _first_and_last(run: Any, step: int, pos: int) -> str:
    """Section 6's comparison, and what ln_f does to the last one."""
    import numpy as np

    from gpt2np.analysis import statistics as s
    from gpt2np.tables import fitted, number

    trace, found = s.trace_of(run), s.layer_comparison(run, step, pos)
    first, last, cosine = found.array.tolist()
    rows = [["norm of the embedding", number(first)], ["norm after ln_f", number(last)]]
    stream, at = f"h.{trace.config.n_layer - 1}.resid_post", s.steps(run)[step][pos]
    if stream in trace:
        norm = float(np.linalg.norm(trace[stream][at].astype(np.float64)))
        rows.insert(1, [f"norm after layer {trace.config.n_layer - 1}", number(norm)])
    rows.append(["cosine of embedding and ln_f", f"{number(cosine)}: {s.verdict(cosine).lower()}"])
    return f"{found.title}\n" + fitted(rows, "<<")


def _attention_by_step(run: Any) -> str:
    """Section 5's numbers of layer 0 at every step."""
    from gpt2np.analysis.statistics import ATTENTION, attention_statistics
    from gpt2np.tables import fitted, number, quoted

    rows = [
        [str(i), quoted(token, 10), *map(number, values)]
        for i, (token, values) in enumerate(
            zip(_chosen(run), attention_statistics(run).array[:, 0].tolist(), strict=True)
        )
    ]
    head = ["step", "chosen", *ATTENTION]
    return "attention of layer 0 by step\n" + fitted([head, *_shortened(rows)], "><" + ">" * len(ATTENTION))


def _rest_by_step(run: Any, summary: Any) -> str:
    """How attention is spread, and how far the residual stream has come, at every step."""
    from gpt2np.analysis.statistics import comparison_by_step
    from gpt2np.tables import fitted, number

    rows = []
    spread, norms = summary.array.mean(axis=1).tolist(), comparison_by_step(run).array.tolist()
    for step, (shares, (first, last, cosine)) in enumerate(zip(spread, norms, strict=True)):
        cells = [f"{share:.4f}" for share in shares]
        rows.append([str(step), *cells, number(first), number(last), f"{cosine:.4f}"])
    head = ["step", "entropy", "distance", "on first", "saturated", "first norm", "last norm", "cosine"]
    title = (
        "by step: attention, mean over layers and heads; L2 norm of the embedding (first) and after ln_f "
        "(last) at the last position, and their cosine"
    )
    return wrapped(title) + "\n" + fitted([head, *_shortened(rows)], ">" * len(head))


def _shortened(rows: list[list[str]]) -> list[list[str]]:
    """The first and last of many rows."""
    if len(rows) <= MOST_STEPS:
        return rows
    half = MOST_STEPS // 2
    return [*rows[:half], ["...", *[""] * (len(rows[0]) - 1)], *rows[-half:]]


def _chosen(run: Any) -> list[str]:
    """The token that each step chose; empty where none was, or where the trace does not say."""
    from gpt2np.analysis.statistics import n_generated, steps
    from gpt2np.generation.generated import Generated

    if not n_generated(run):
        return [""]
    tokens = run.tokens if isinstance(run, Generated) else [*run.tokens, ""]
    shown = readable(tokens)
    return [shown[step.stop] for step in steps(run)]


def _wrapped(text: str) -> str:
    """A text in lines of a terminal, control characters as escapes; as it is where it goes elsewhere."""
    from gpt2np.tables import cell_width, screen_width

    if not sys.stdout.isatty():
        return text
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for c in line:
            shown = c if c.isprintable() else c.encode("unicode_escape").decode()
            if cell_width(lines[-1] + shown) > screen_width():
                lines.append("")
            lines[-1] += shown
    return "\n".join(line.rstrip() for line in lines)
