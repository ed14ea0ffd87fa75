"""The verb compare: holds somebody's tensors against ours."""

import argparse
import json
import math
import sys
from typing import Any

from gpt2np.cli.arguments import (
    add_chat,
    add_model,
    add_outputs,
    add_special,
    as_run,
    count,
    is_conversation,
    load_model,
    read_conversation,
    token_ids,
)
from gpt2np.cli.parser import add_verb
from gpt2np.cli.terminal import give_up_stdout, tell, write_over
from gpt2np.cli.texts import a_text, read_prompt_text
from gpt2np.errors import InputError, short


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "compare",
        compare,
        "compare dump.npz --prompt 'Elizabeth was'",
        "compare dump.pt --tokens 36,1116,340 --html report.html",
    )
    verb.add_argument(
        "dump",
        nargs="?",
        metavar="DUMP",
        help=".safetensors, .npz, a folder of .npy, .pt, raw .bin (--shapes), or llm.c's debug_state.bin",
    )
    verb.add_argument(
        "--prompt", type=a_text, metavar="TEXT", help="the text that ran; - reads it from stdin"
    )
    verb.add_argument("--tokens", metavar="IDS", help="its token ids instead: 464,3139,286")
    verb.add_argument(
        "--map",
        action="append",
        metavar="THEIRS=OURS",
        help="their name for a site: layer*.att=h.*.attn.pattern; ours[head query key] declares a layout",
    )
    verb.add_argument("--shapes", metavar="FILE", help="names and shapes in a raw file, in its order (JSON)")
    verb.add_argument(
        "--prefill", type=count, metavar="N", help="N tokens ran at once, then one at each step"
    )
    verb.add_argument("--rtol", type=_tolerance, metavar="R", help="atol + rtol * |truth| instead of noise")
    verb.add_argument("--atol", type=_tolerance, metavar="A", help="(default 0 where --rtol is given)")
    verb.add_argument(
        "--search",
        type=_tolerance,
        metavar="SECONDS",
        help="seconds of computing to look for it (10; 0: until all of the catalogue has been tried)",
    )
    verb.add_argument("--their-tokens", metavar="FILE", help="token ids to compare: a file, or 464,3139")
    verb.add_argument("--mistakes", action="store_true", help="list the catalogue of known mistakes")
    verb.add_argument("--html", metavar="FILE", help="also write the report as a page")
    add_outputs(verb, "html", more="; read a .npz far larger than the model's sites")
    add_special(verb)
    add_chat(verb)
    add_model(verb, dtype=False)


def compare(args: argparse.Namespace) -> int:
    """`gpt2np compare`."""
    from gpt2np.files import MAX_BYTES
    from gpt2np.reference.comparison import compare as hold
    from gpt2np.reference.report_text import catalogue
    from gpt2np.reference.search_limit import SECONDS
    from gpt2np.tables import strict_json

    if args.mistakes:
        print(strict_json(_catalogue()) if args.json else catalogue())
        return 0
    if args.dump is None and args.their_tokens is None:
        raise InputError("give a DUMP to compare (see: gpt2np compare --help)")
    prompt = _prompt(args)
    if args.dump is None:
        model = load_model(args, prompt)
        return _compare_tokens(args, model, prompt)
    names = _names(args.map)
    model = load_model(args, prompt)
    prompt = as_run(args, model, prompt)
    code = _compare_tokens(args, model, prompt) if args.their_tokens is not None else 0
    found = hold(
        args.dump,
        model,
        prompt,
        names=names,
        shapes=args.shapes,
        prefill=args.prefill,
        rtol=args.rtol,
        atol=args.atol,
        special=args.special,
        max_bytes=None if args.force else MAX_BYTES,
        search=SECONDS if args.search is None else args.search,
        progress=_tell if sys.stderr.isatty() else None,
    )
    write_over()
    if args.html:
        from gpt2np.outputs import whole_file
        from gpt2np.viewer.comparison_page import comparison_page

        with whole_file(args.html) as file:
            file.write(comparison_page(found.to_dict()))
        tell(f"wrote {args.html}")
    try:
        print(strict_json(found.to_dict()) if args.json else found, flush=True)
    except BrokenPipeError:  # `gpt2np compare ... | head`: the exit code is the answer all the same
        give_up_stdout()
    return max(code, found.exit_code)


def _tell(tried: int, seconds: float) -> None:
    """One line on the terminal, written again and again."""
    write_over(f"gpt2np: looking for the mistake: {tried} forms tried in {seconds:.0f} s")


def _prompt(args: argparse.Namespace) -> str | list[Any] | None:
    if args.prompt is not None and args.tokens is not None:
        raise InputError("give --prompt or --tokens, not both")
    if args.chat and args.prompt is None:
        raise InputError("--chat takes a --prompt: token ids and what a dump says are compared as they are")
    if args.chat and args.their_tokens is not None:
        raise InputError("--their-tokens compares the tokens of a text: leave out --chat")
    if args.tokens is not None:
        ids = token_ids(args.tokens, "--tokens")
        if not ids:
            raise InputError("the prompt is empty: --tokens needs at least one id")
        return ids
    if args.chat and is_conversation(args.prompt):
        return read_conversation(args.prompt)
    return read_prompt_text() if args.prompt == "-" else args.prompt


def _names(given: list[str] | None) -> dict[str, str] | None:
    """Their names to ours, of `--map`."""
    names: dict[str, str] = {}
    for pair in given or ():
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise InputError(f"--map takes THEIRS=OURS, as in att_0=h.0.attn.pattern, not {short(pair)}")
        names[theirs] = ours
    return names or None


def _compare_tokens(args: argparse.Namespace, model: Any, prompt: str | list[int] | None) -> int:
    """Hold their token ids against ours; 1 if they differ."""
    from gpt2np.reference.token_comparison import compare_tokens
    from gpt2np.tables import strict_json

    if not isinstance(prompt, str):
        raise InputError("--their-tokens needs the text: --prompt TEXT")
    if model.tokenizer is None:
        raise InputError(f"{model.checkpoint.folder} has no vocabulary to compare tokens with")
    found = compare_tokens(model.tokenizer, prompt, args.their_tokens)
    if args.dump is None and args.json:
        print(strict_json(found.to_dict()))
    else:
        print(found, file=sys.stderr if args.json else sys.stdout)
    return int(not found.equal)


def _catalogue() -> list[dict[str, Any]]:
    from gpt2np.reference.mistakes import KNOWN

    return [
        {"mistake": m.slug, "steps": list(m.steps), "explanation": m.explanation, "cure": m.cure}
        for m in KNOWN
    ]


def _tolerance(text: str) -> float:
    """A number of at least 0."""
    try:
        value = float(json.loads(text))
    except (ValueError, TypeError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{short(text)} is not a number of at least 0")
    return value
