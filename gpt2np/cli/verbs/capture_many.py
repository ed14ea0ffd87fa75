"""The part of `gpt2np capture` that captures many texts into shards: `capture --text`."""

import argparse
import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpt2np.cli.arguments import count, group, load_model
from gpt2np.cli.terminal import doing, tell
from gpt2np.errors import InputError

if TYPE_CHECKING:
    from gpt2np.capture.capture_plan import CapturePlan
    from gpt2np.capture.many import CaptureDone, Watch

# What goes with --text only, and what does not go with it, as they are without being given.
WITH_TEXTS = {
    **dict.fromkeys(("keep", "positions", "store", "out", "dask", "window", "shard_mb"), None),
    **dict.fromkeys(("plan", "skip_bad"), False),
}
WITHOUT_TEXTS = {
    **dict.fromkeys(("id", "layer_internals", "experiment", "max_new_tokens", "temperature", "seed"), None),
    "format": "safetensors",
    "output": "experiments",
    "threads": None,
}


def add_options(verb: argparse.ArgumentParser, what: Any) -> None:
    """Add the options; `what` is the group of those that say what is captured."""
    help = (
        "many texts, into shards: a file with one a line, .jsonl or .json, a folder of .txt files (no "
        "hidden ones), - for stdin, or a shipped set"
    )
    what.add_argument("--text", metavar="FILE|DIR|-", help=help)
    many = group(verb, "many texts (--text)")
    many.add_argument("--keep", nargs="+", metavar="PATTERN", help="sites to keep (default resid_post)")
    help = "of each text: first, last, all or A:B:C (default all)"
    many.add_argument("--positions", metavar="P", help=help)
    many.add_argument("--store", choices=["float16", "float32", "float64"], help="(default float16)")
    many.add_argument("--out", metavar="FOLDER", help="where the shards go; a capture there goes on")
    help = "print bytes, time, and what --out has of them already, and run nothing else"
    many.add_argument("--plan", action="store_true", help=help)
    help = "run on a Dask cluster: the address of its scheduler, or its scheduler file"
    many.add_argument("--dask", metavar="ADDRESS", help=help)
    help = "leave out texts that are empty or too long, and list them"
    many.add_argument("--skip-bad", action="store_true", help=help)
    help = "cut texts into windows of N tokens: those of a folder (default: the context), or one file"
    many.add_argument("--window", type=count, metavar="N", help=help)
    help = "size of a shard (default: 256, and less where that leaves workers idle)"
    many.add_argument("--shard-mb", type=count, metavar="MB", help=help)
    many.add_argument("--force", action="store_true", help="begin even if the disk has too little room")


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go with what is captured."""
    table, says = (WITHOUT_TEXTS, "does not go with") if args.text is not None else (WITH_TEXTS, "goes with")
    for option, default in table.items():
        if getattr(args, option) != default:
            raise InputError(f"--{option.replace('_', '-')} {says} --text")


def capture_texts(args: argparse.Namespace) -> int:
    """`gpt2np capture --text`."""
    from gpt2np.capture.capture_plan import plan_capture
    from gpt2np.capture.texts import read_texts, texts_in
    from gpt2np.cli.texts import read_text

    if args.out is None and not args.plan:
        raise InputError("--out FOLDER is needed: the folder that everything goes into")
    if args.out == "":
        raise InputError("the name of what is to be written is empty")
    windowed = args.window is not None
    if args.text == "-":
        texts = texts_in(read_text("-").removeprefix("\ufeff"), "stdin", windowed)
    else:
        texts = read_texts(args.text, windowed)
    model = load_model(args, *texts.texts)
    doing("reading the texts")
    plan = plan_capture(
        model,
        texts,
        keep=args.keep or "resid_post",
        positions="all" if args.positions is None else args.positions,
        store=args.store or "float16",
        window=args.window,
        special=args.special,
        chat=args.chat,
        skip_bad=args.skip_bad,
        **({} if args.shard_mb is None else {"shard_bytes": args.shard_mb * 1_000_000}),
    )
    return _print_plan(args, plan) if args.plan else _run(args, plan)


def _print_plan(args: argparse.Namespace, plan: "CapturePlan") -> int:
    """`--plan`."""
    from gpt2np.capture.capture_folder import free_bytes, shards_there
    from gpt2np.capture.many import check_disk
    from gpt2np.capture.shards_of_plan import why_not_of
    from gpt2np.capture.worker_model import n_workers
    from gpt2np.tables import counted, fitted, strict_json
    from gpt2np.tracing.plan import human_bytes

    there = (
        set()
        if args.out is None
        else shards_there(args.out, plan.manifest, plan.shards, functools.partial(why_not_of, plan))
    )
    missing = [shard for shard in plan.shards if shard.file not in there]
    bytes_there = plan.nbytes - sum(shard.bytes for shard in missing)
    doing("measuring the rate")
    folder = args.out or os.curdir
    rate, free = plan.tokens_a_second(), free_bytes(folder)
    seconds, saved = plan.tokens_run_of(missing) / rate, plan.tokens_needed - plan.tokens_run
    workers = n_workers(plan.model, args.workers, len(missing), seconds)
    seconds /= workers
    if args.json:
        facts = {
            "prompts": len(plan.tokens), "skipped": len(plan.tokens.skipped), "tokens": len(plan.tokens.ids),
            "tokens_run": plan.tokens_run, "tokens_saved": saved, "rows": plan.n_rows,
            "sites": list(plan.choice.names), "shards": len(plan.shards), "bytes": plan.nbytes,
            "shards_there": len(there), "bytes_there": bytes_there, "free_bytes": free,
            "workers": workers, "tokens_a_second": rate, "seconds": seconds,
        }  # fmt: skip
        print(strict_json(facts))
    else:
        rows = counted(plan.n_rows, "row")
        at_work = f"{counted(workers, 'worker')}, {rate:,.0f} tokens/s each"
        print(
            fitted(
                [
                    ["texts", _skipped(counted(len(plan.tokens), "prompt"), len(plan.tokens.skipped))],
                    ["tokens", f"{len(plan.tokens.ids):,}"],
                    ["to run", f"{plan.tokens_run:,} (shared beginnings save {saved:,})"],
                    ["kept", f"{counted(len(plan.choice.names), 'site')} of {rows}, {plan.choice.store}"],
                    ["shards", f"{len(plan.shards):,}"],
                    ["bytes", f"{plan.nbytes:,} ({human_bytes(plan.nbytes)})"],
                    *(
                        [["there", f"{counted(len(there), 'shard')} by size, {human_bytes(bytes_there)}"]]
                        if there
                        else []
                    ),
                    ["disk", f"{human_bytes(free)} free"],
                    ["time", f"about {duration(seconds)}: {at_work}" if missing else "none: all is there"],
                ],
                "<<",
                indent=0,
            )
        )
    if not args.force:
        check_disk(plan, folder)
    return 0


def _run(args: argparse.Namespace, plan: "CapturePlan") -> int:
    """Run the plan, and say what is there then."""
    from gpt2np.capture.many import capture_many
    from gpt2np.tables import counted, fitted, strict_json
    from gpt2np.tracing.plan import human_bytes

    with contextlib.ExitStack() as closing:
        executor = None
        if args.dask is not None:
            if args.workers is not None:
                raise InputError("--workers are of this machine, and --dask has its own: give one of them")
            from gpt2np.capture.cluster import connect

            executor = closing.enter_context(connect(args.dask))
        watch = closing.enter_context(_watched(plan))
        try:
            done = capture_many(
                plan, args.out, workers=args.workers, executor=executor, force=args.force, watch=watch
            )
        except KeyboardInterrupt:
            tell(f"interrupted; the same command goes on with {args.out}")
            raise
    if args.json:
        print(strict_json(_facts(done)))
        return 0
    for bad in done.skipped[:5]:
        tell(f"note: left out {bad.named}: {bad.reason}")
    if len(done.skipped) > 5:
        tell(f"note: left out {len(done.skipped) - 5:,} more; manifest.json lists them")
    shown = [
        ["texts", _skipped(counted(done.prompts, "prompt"), len(done.skipped))],
        ["tokens", f"{done.tokens:,}"],
        ["kept", f"{counted(len(plan.choice.names), 'site')} of {counted(done.rows, 'row')}"],
        ["shards", f"{done.shards:,} ({done.new:,} new), {human_bytes(done.bytes)}"],
    ]
    print(fitted(shown, "<<", indent=0))
    tell(f"everything is in {args.out}")
    return 0


def _facts(done: "CaptureDone") -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "folder": str(done.folder), "prompts": done.prompts, "tokens": done.tokens, "rows": done.rows,
        "shards": done.shards, "new": done.new, "bytes": done.bytes,
        "skipped": [bad.facts() for bad in done.skipped],
    }  # fmt: skip


def _skipped(text: str, n: int) -> str:
    return f"{text}, {n:,} left out" if n else text


def duration(seconds: float) -> str:
    """A time as people say it: two digits of the largest unit that it has."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{max(1, round(seconds))} s"


@contextlib.contextmanager
def _watched(plan: "CapturePlan") -> Iterator["Watch"]:
    """What tells of a run: notes on stderr, and a bar with tokens a second and time left on a terminal."""
    from gpt2np.capture.many import Watch

    if not sys.stderr.isatty():
        yield Watch(note=tell)
        return
    from gpt2np.tables import stream_of_bars

    tqdm = importlib.import_module("tqdm").tqdm  # comes with huggingface_hub
    bar = tqdm(unit="token", unit_scale=True, smoothing=0.1, file=stream_of_bars(), delay=0.5)

    def start(tokens: int) -> None:
        bar.reset(tokens)

    try:
        yield Watch(
            shard=lambda shard, made: None if made is None else bar.update(shard.tokens),
            note=lambda text: bar.write(f"gpt2np: {text}", file=sys.stderr),
            start=start,
        )
    finally:
        bar.close()
