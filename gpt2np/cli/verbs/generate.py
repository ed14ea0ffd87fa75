"""The verb that continues a prompt: generate."""

import argparse
import os
from typing import Any

from gpt2np.cli.arguments import (
    add_edits,
    add_generation,
    add_model,
    add_outputs,
    add_prompt,
    as_run,
    check_ending,
    edits_of,
    end_of_text,
    load_model,
    read_prompt,
    token_ids,
)
from gpt2np.cli.parser import add_note, add_verb
from gpt2np.cli.terminal import tell
from gpt2np.errors import InputError


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "generate",
        generate,
        "generate 'Elizabeth was' --max-new-tokens 20",
        "generate 'Elizabeth was' --temperature 0.8 --top-k 50 --seed 1",
    )
    add_note(
        verb,
        "Control characters in what the model writes are shown as escapes, such as \\x1b, in pipes and files "
        "as well; --json has the text exactly.",
    )
    add_prompt(verb)
    add_model(verb)
    add_generation(verb)
    add_outputs(verb, "out", "ledger")
    verb.add_argument(
        "--show-choices",
        action="store_true",
        help="also print why each token was chosen: candidates, what each filter removed, the draw",
    )
    add_edits(verb)


def generate(args: argparse.Namespace) -> int:
    """`gpt2np generate`."""
    from dataclasses import fields, replace

    from gpt2np.generation.options import Sampling
    from gpt2np.outputs import whole_file
    from gpt2np.tables import counted, strict_json

    check_ending(args.out, ".safetensors")
    prompt = read_prompt(args)
    chosen = {f.name: getattr(args, f.name) for f in fields(Sampling) if getattr(args, f.name) is not None}
    if "early_stopping" in chosen:
        chosen["early_stopping"] = {"true": True, "false": False}.get(args.early_stopping, "never")
    if args.keep and not args.out:
        raise InputError("--keep says what --out FILE holds; give both")
    model = load_model(args, prompt)
    prompt = as_run(args, model, prompt)
    generation = model.generate(
        prompt,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        eos=end_of_text(args.eos),
        stop=args.stop or (),
        stop_tokens=token_ids(args.stop_tokens, "--stop-tokens"),
        keep=(args.keep or "*") if args.out else None,
        ledger="full" if args.ledger else args.show_choices,
        lookup=args.lookup,
        on_overflow=args.on_overflow,
        special=args.special,
        edits=edits_of(args),
        **chosen,
    )
    if not args.temperature and (args.top_k or args.top_p or args.min_p or args.seed is not None):
        tell("note: without --temperature decoding is greedy: nothing is drawn")
    interrupted, shown = False, generation.prompt_texts[0]
    if not args.json:
        print(shown, end="", flush=True)
    try:
        for token in generation:
            shown += token.text
            if not args.json:
                print(token.text, end="", flush=True)
    except KeyboardInterrupt:
        generation.stop()
        interrupted = True
    done = generation.finish()
    if args.json:
        facts = {
            "model": model.name,
            "text": done.text,
            "prompt": {"text": done.prompt.text, "token_ids": done.prompt.token_ids},
            "response": {"text": done.response.text, "token_ids": done.response.token_ids},
            "tokens": done.response.tokens,
            "probabilities": done.probabilities,
            "stopped_by": done.stopped_by,
        }
        if args.show_choices:
            facts["choices"] = [replace(entry, raw_logits=None).to_json() for entry in done.ledger]
        print(strict_json(facts))
    else:
        print(done.text[len(shown) :])  # what an interrupt left held back
        if args.show_choices:
            print("".join(f"\n{_choice(model, entry)}\n" for entry in done.ledger), end="")
    if args.ledger:
        with whole_file(args.ledger) as file:
            file.writelines(strict_json(entry.to_json(), indent=None) + "\n" for entry in done.ledger)
        tell(f"wrote {args.ledger}, {counted(len(done.ledger), 'line')}")
    if args.out and done.trace is None:
        tell(f"no token was chosen, so {args.out} was not written")
    elif args.out:
        done.trace.save(args.out)
        tell(f"wrote {args.out}, {os.path.getsize(args.out):,} bytes")
    return 130 if interrupted else 0


def _choice(model: Any, entry: Any) -> str:
    """Why a token was chosen, in a few lines: candidates, what the filters removed, and the draw."""
    from gpt2np.tables import fitted, quoted, screen_width

    def token(i: int) -> str:
        return quoted(model.tokens([i])[0], 14)

    candidates = ""
    for i, p in entry.top[:5]:
        piece = f"{token(i)} {p:.1%}  "
        candidates += piece if len(candidates + piece) + 14 <= screen_width() else ""
    removed = [f"{r.name} {r.count:,} ({r.mass:.1%})" for r in entry.removals if r.count]
    drawn = "greedy: the largest logit"
    if entry.uniform is not None:
        low, high = entry.interval
        drawn = f"{entry.uniform:.4f}, which falls between {low:.4f} and {high:.4f}"
    chosen = f"{token(entry.token_id)} {entry.probability:.1%}, number {entry.raw_rank + 1} by its raw logit"
    left = f"{', '.join(removed) or 'nothing'}; {entry.survivors:,} left"
    rows = [["candidates", candidates.rstrip()], ["removed", left], ["draw", drawn], ["chosen", chosen]]
    return f"step {entry.step}\n" + fitted(rows, "<<")
