"""`gpt2np kv`: the KV cache of a text as a file, questions to such a file, and many files at once."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2np.cli.arguments import (
    add_chat,
    add_model,
    add_outputs,
    add_prompt,
    add_special,
    add_workers,
    as_run,
    count,
    integer,
    load_model,
    open_trace,
    read_prompt,
)
from gpt2np.cli.parser import add_note, add_verb
from gpt2np.cli.terminal import tell
from gpt2np.cli.texts import a_text, read_lines, read_text
from gpt2np.cli.verbs import kv_tables
from gpt2np.errors import InputError, short

if TYPE_CHECKING:
    from gpt2np.kv.queries import KV, Coordinate

_Answer = tuple[dict[str, Any], "list[Coordinate]"]  # what is printed, and what goes into the CSV
OUTPUT = "data/kv_cache_output.json"
SHOWN = 20  # rows of a search on a terminal; --json and --export-csv have all
FORMATS = "A .safetensors file is a third the size of a .json file and needs no parsing: at 1,024 tokens \
of GPT-2 small, a query takes 0.3 s instead of 5 s."


def register(verbs: Any) -> None:
    """Add these verbs to the command line."""
    kv = add_verb(
        verbs,
        "kv",
        extract,
        "kv extract 'Elizabeth was' --out kv.json",
        "kv query kv.json --info",
        "kv dataset --text-file prompts.txt --output-dir kvs",
    )
    parts = kv.add_subparsers(title="verbs", metavar="VERB", required=True, help="what to do")
    _add_extract(parts)
    _add_query(parts)
    _add_dataset(parts)


def _add_extract(parts: Any) -> None:
    verb = add_verb(
        parts,
        "extract",
        extract,
        "kv extract 'Elizabeth was' --out kv.json",
        text="write keys and values of a text, and the predicted next token",
    )
    add_note(verb, f"Without a TEXT, the first sample prompt is used. {FORMATS}")
    add_prompt(verb)
    add_model(verb, dtype=False)
    help = "a saved trace, such as one of generate --out, instead of a text: nothing is run again"
    verb.add_argument("--trace", metavar="FILE", help=help)
    help = f".json or .safetensors (default {OUTPUT})"
    verb.add_argument("--out", default=OUTPUT, metavar="FILE", help=help)
    verb.add_argument("--top", type=count, default=5, metavar="K", help="how many candidates (default 5)")
    add_outputs(verb, "out")


def _add_query(parts: Any) -> None:
    verb = add_verb(
        parts,
        "query",
        query,
        "kv query kv.json --info",
        "kv query kv.json --coordinate 0 0 0 --token-search eliza",
        text="look into a KV file, or into any trace that kept keys and values",
    )
    add_note(
        verb,
        f"Queries can be combined, and each be repeated: --json has a list of its answers then. {FORMATS}",
    )
    verb.add_argument("file", metavar="FILE", help=".json or .safetensors, or what export wrote as npz")
    verb.add_argument("--info", action="store_true", help="model, text, sizes, predicted next token")
    help = "key and value of layer L, head H, token T; each counts from 0"
    verb.add_argument("--coordinate", nargs=3, action="append", metavar=("L", "H", "T"), help=help)
    help = "tokens that contain TEXT, case-insensitive, or that spell it together"
    verb.add_argument("--token-search", type=a_text, action="append", metavar="TEXT", help=help)
    help = "norms of the keys and values of each head"
    verb.add_argument("--layer-summary", action="append", metavar="L", help=help)
    help = "coordinates whose key or value (PART) has a norm of MIN to MAX"
    verb.add_argument("--search-norm", nargs=3, action="append", metavar=("MIN", "MAX", "PART"), help=help)
    help = (
        "write coordinates and norms of what was found, or of everything if nothing was asked; a token that "
        "a spreadsheet would run, as =1, has an apostrophe before it"
    )
    verb.add_argument("--export-csv", metavar="FILE", help=help)
    verb.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_outputs(verb, "export_csv", more="; read a FILE that takes more than 1 GB of memory")


def _add_dataset(parts: Any) -> None:
    verb = add_verb(
        parts,
        "dataset",
        dataset,
        "kv dataset --text-file prompts.txt --output-dir kvs",
        "kv dataset --random 10 --output-dir kvs",
        text="write a KV file for each of many prompts; resumes, and adds to a folder",
    )
    add_note(
        verb,
        f"Without prompts, the sample prompts are used. Into an existing folder, of the same model \
and options, only what it does not list yet is written, under the next numbers. {FORMATS}",
    )
    source = verb.add_mutually_exclusive_group()
    source.add_argument(
        "--text-file",
        metavar="FILE",
        help="prompts: one a line, JSON lines (.jsonl) or a JSON list (.json); - reads lines from stdin",
    )
    source.add_argument("--prompts", nargs="+", type=a_text, metavar="TEXT", help="the prompts themselves")
    source.add_argument("--random", type=count, metavar="N", help="N prompts sampled from the model")
    verb.add_argument("--random-tokens", action="store_true", help="with --random: uniformly random tokens")
    verb.add_argument("--seed", type=_seed, default=0, metavar="S", help="of --random (default 0)")
    verb.add_argument("--output-dir", required=True, metavar="DIR", help="kv_00000.json, ... and index.jsonl")
    verb.add_argument("--format", choices=["json", "safetensors"], default="json", help="(default json)")
    verb.add_argument("--top", type=count, default=5, metavar="K", help="how many candidates (default 5)")
    add_workers(verb)
    add_special(verb)
    add_chat(verb)
    add_model(verb, dtype=False)


def extract(args: argparse.Namespace) -> int:
    """`gpt2np kv extract`."""
    from gpt2np.kv.extraction import SAMPLE_PROMPTS, check_suffix, extract_to_file, trace_to_file
    from gpt2np.tables import strict_json

    check_suffix(args.out)
    if args.trace is not None:
        if args.text is not None or args.tokens is not None:
            raise InputError("--trace is instead of a text: give neither TEXT nor --tokens")
        trace = open_trace(args.trace, load_model(args))
        facts = trace_to_file(trace, args.out, args.top)
    else:
        if args.text is None and args.tokens is None:
            args.text = read_lines(str(SAMPLE_PROMPTS))[0]
            tell(f"no TEXT given: the first of {SAMPLE_PROMPTS}")
        prompt = read_prompt(args)
        model = load_model(args, prompt)
        prompt = as_run(args, model, prompt)
        facts = extract_to_file(model, prompt, args.out, args.top, special=args.special)
    facts |= {"file": args.out, "bytes": Path(args.out).stat().st_size}
    print(strict_json(facts) if args.json else kv_tables.about(facts))
    return 0


def query(args: argparse.Namespace) -> int:
    """`gpt2np kv query`."""
    from gpt2np.files import MAX_BYTES, check_regular
    from gpt2np.kv.queries import COLUMNS, write_csv
    from gpt2np.kv.reading import read_kv
    from gpt2np.tables import counted, strict_json

    check_regular(args.file)
    asked = (args.coordinate, args.token_search, args.layer_summary, args.search_norm)
    if not args.info and not args.export_csv and all(question is None for question in asked):
        raise InputError("ask something: --info, --coordinate 0 0 0, --token-search fox, ...")
    kv = read_kv(args.file, max_bytes=None if args.force else MAX_BYTES)
    facts: dict[str, list[dict[str, Any]]] = {}  # by question: its answers
    found: dict[str, list[Coordinate]] = {}  # by question: what goes into the CSV
    if args.info:
        facts["info"] = [_info(kv, args.file)]
    answer: dict[str, Callable[[KV, Any], _Answer]] = {
        "coordinate": _coordinate,
        "token_search": _token_search,
        "layer_summary": _layer_summary,
        "search_norm": lambda kv, given: _search_norm(kv, given, args.json),
    }
    for question, answered in answer.items():
        for given in getattr(args, question) or ():
            told, coordinates = answered(kv, given)
            facts.setdefault(question, []).append(told)
            found.setdefault(question.replace("_", "-"), []).extend(coordinates)
    if args.export_csv:
        rows = (
            {"query": question} | row
            for question, coordinates in (found or {"all": list(kv.coordinates())}).items()
            for row in kv.rows(coordinates)
        )
        n = write_csv(args.export_csv, ["query", *COLUMNS], rows)
        tell(f"wrote {args.export_csv}, {counted(n, 'row')}")
    if facts:
        once = {question: told[0] if len(told) == 1 else told for question, told in facts.items()}
        print(strict_json(once) if args.json else kv_tables.answers(facts))
    return 0


def _info(kv: "KV", file: str) -> dict[str, Any]:
    from gpt2np.kv.extraction import said_by

    kv.check_digest(file)
    return said_by(kv) | {"file": file, "bytes": Path(file).stat().st_size}


def _coordinate(kv: "KV", given: list[str]) -> _Answer:
    from gpt2np.kv.queries import Coordinate

    at = Coordinate(*(integer(text, axis) for axis, text in zip("LHT", given, strict=True)))
    kv.check(*at)
    keys, values = kv.layers[at.layer]
    vectors = {"key": keys[at.token, at.head].tolist(), "value": values[at.token, at.head].tolist()}
    return next(kv.rows([at])) | vectors, [at]


def _token_search(kv: "KV", text: str) -> _Answer:
    matches = kv.find(text)
    places = [{"token_idx": list(match), "tokens": [kv.tokens[i] for i in match]} for match in matches]
    positions = sorted({position for match in matches for position in match})
    found = list(kv.coordinates(tokens=positions))
    return {"text": text, "case_sensitive": False, "found": places}, found


def _layer_summary(kv: "KV", given: str) -> _Answer:
    layer = integer(given, "L")
    return {"layer": layer, "heads": kv.summary(layer)}, list(kv.coordinates(layers=[layer]))


def _search_norm(kv: "KV", given: list[str], whole: bool) -> _Answer:
    low, high = (_number(name, text) for name, text in zip(("MIN", "MAX"), given, strict=False))
    found = kv.between(low, high, given[2])
    smallest, largest = kv.range_of_norms(given[2])
    facts = {
        "range": [low, high, given[2]],
        "found": len(found),
        "of": kv.n_layer * kv.n_head * len(kv.tokens),
        "smallest": smallest,
        "largest": largest,
        "rows": list(kv.rows(found if whole else found[:SHOWN])),
    }
    return facts, found


def dataset(args: argparse.Namespace) -> int:
    """`gpt2np kv dataset`."""
    from gpt2np.kv import datasets
    from gpt2np.tables import counted, stream_of_bars, strict_json

    if args.random_tokens and not args.random:
        raise InputError("--random-tokens says which kind of --random N")
    from_file = not args.random and not args.prompts
    rows = _texts_of(args.text_file) if from_file else []
    given = [text for _, text in rows] if from_file else args.prompts
    model = load_model(args, *(() if args.random else given))
    if args.random:
        sources = datasets.randoms(args.random, args.seed, args.random_tokens)
    else:
        sources = datasets.texts(given, model, args.special, [where for where, _ in rows], args.chat)
    folder, suffix = Path(args.output_dir), f".{args.format}"
    done = datasets.write_dataset(model, sources, folder, suffix, args.top, workers=args.workers)
    if sys.stderr.isatty():
        from tqdm import tqdm  # type: ignore[import-untyped]

        done = tqdm(done, total=len(sources), unit="file", file=stream_of_bars())
    entries = list(done)
    n_new = sum(new for _, new in entries)
    index = folder / datasets.INDEX
    if args.json:
        print(
            strict_json({"folder": str(folder), "written": n_new, "files": [entry for entry, _ in entries]})
        )
        return 0
    print(kv_tables.files([entry for entry, _ in entries]))
    there = " (the others were there)" if n_new < len(entries) else ""
    tell(f"wrote {n_new} of {counted(len(entries), 'file')}{there}, listed in {index}")
    return 0


def _texts_of(path: str | None) -> list[tuple[str, str]]:
    """Where each prompt of a file stands, and its text; of our sample prompts where there is none."""
    from gpt2np.kv.extraction import SAMPLE_PROMPTS
    from gpt2np.text.prompt_lists import prompt_texts

    if path is not None and Path(path).name == SAMPLE_PROMPTS.name and not Path(path).exists():
        tell(f"note: there is no {path}: the prompts are those of {SAMPLE_PROMPTS}")
        path = None
    path = path or str(SAMPLE_PROMPTS)
    return prompt_texts(read_text(path), path)


# -- reading arguments ---------------------------------------------------------------------------------


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{short(text)} is not a whole number from 0")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} must be a number, not {short(text)}") from None
