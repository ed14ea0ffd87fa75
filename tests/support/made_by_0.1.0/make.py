"""Writes the files of this folder, as version 0.1.0 of gpt2np left them on disk (commit 668de4c).

They were made once, and no later version may write them again: they are there to be read by later versions,
and `test_files_of_0_1_0.py` opens every one. The script stays to show how they came to be. It runs the code
of that commit and refuses any other, so nothing in it follows what has been renamed or moved since:

    git worktree add /tmp/old 668de4c
    python make.py /tmp/old          # into this folder; needs what gpt2np 0.1.0 depends on
    python make.py /tmp/old --pt     # then, with a Python that has torch: the .pt captures

`expected.json` and `expected.npz` hold what the code of that commit reads from the files, and what its
commands answer to questions about them. `facts.py` is what both sides are asked.
"""

# ruff: noqa: I001, RUF100 - imports are sorted by what is there today, and these are of then

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import facts
import numpy as np

COMMIT = "668de4c"
HERE = Path(__file__).resolve().parent
MODIFIED = 1_700_000_000 * 10**9  # when the weights were, in ns: a model's fingerprint contains it

TEXT = "é on the"
SHORT = "é in"
PACKED = ["the ☃", "on", SHORT]
IDS = [41, 256, 275, 7, 299]
LINES = "the ☃\n\nin é\n"
PROMPTS = {"prompts": [{"id": 1, "text": TEXT}, {"id": "two", "text": "a ☃", "note": "not ASCII"}]}
STATISTICS = ["attn.pattern", "embed", "resid_post", "ln_f"]  # what `gpt2np stats` reads

SAMPLED = (
    "--max-new-tokens 3 --temperature 1.3 --top-k 60 --top-p 0.95 --min-p 0.001 --repetition-penalty 1.2 "
    "--presence-penalty 0.1 --frequency-penalty 0.2 --no-repeat-ngram-size 2 --seed 4"
).split()
BEAMS = "--max-new-tokens 4 --num-beams 3".split()
GENERATED = [[*"generate --model model --json".split(), TEXT, *options] for options in (SAMPLED, BEAMS)]
CAPTURE = "capture --model model --output captures --json --max-new-tokens 2 --experiment".split()
GREEDY = [*CAPTURE, *"greedy --prompt-set captures/two.json".split()]
CAPTURES = [
    GREEDY,
    [*GREEDY, *"--layer-internals 1".split()],
    [*CAPTURE, *"sampled --temperature 1 --seed 5 --prompt".split(), SHORT],
]
DATASET = "kv dataset --model model --json --output-dir".split()
DATASETS = [
    [*DATASET, *"datasets/lines --text-file datasets/lines.txt".split()],
    [*DATASET, *"datasets/sampled --random 2 --seed 3 --format safetensors".split()],
    [*DATASET, *"datasets/tokens --random 1 --random-tokens --seed 1 --top 2".split()],
]
EXPORTS = [  # of which trace, what, in which dialect
    ("traces/short", "gpt2np.npz", "gpt2np"),
    ("traces/short", "hf.npz", "hf"),
    ("traces/run", "transformer_lens.npz", "transformer_lens"),
    ("traces/short", "guide.safetensors", "guide"),
    ("traces/short", "llm.c.safetensors", "llm.c"),
    ("traces/mixed", "mixed_guide.npz", "guide"),
    ("traces/positions", "positions_transformer_lens.safetensors", "transformer_lens"),
    ("traces/float64", "float64_hf.safetensors", "hf"),
    ("traces/float16", "float16_hf.npz", "hf"),
    ("generations/greedy", "hf.json", "hf"),
    ("generations/greedy", "hf.csv", "hf"),
]
LLMC = ("gpt2_4K_debug_state.bin", "activations.bin")  # what gpt2np reads of them
FIXTURE = ("config.json", "model.safetensors", "prompt.txt", "trace.safetensors", "bands.safetensors")
QUESTIONS = "--info --coordinate 1 1 2 --token-search N --layer-summary 1 --search-norm 0 2 key".split()


def main() -> None:
    """Write everything, or the `.pt` captures alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--pt", action="store_true")
    args = parser.parse_args()
    use(args.checkout.resolve())
    os.chdir(HERE)
    if args.pt:
        run(*GREEDY, "--format", "pt")
        return
    for name in ("traces", "generations", "kv", "exports", "captures", "datasets", "fixture"):
        Path(name).mkdir()
    write_model()
    write_traces()
    write_generations()
    write_kv_files()
    write_exports()
    write_captures()
    write_datasets()
    write_fixture()
    write_expected()


def use(checkout: Path) -> None:
    """Import gpt2np from a checkout, which must be of the right commit and unchanged."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=7"]
    found = subprocess.run(describe, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
    if found != COMMIT:
        sys.exit(f"{checkout} is at {found}: these files are of {COMMIT}")
    sys.path[:0] = [str(checkout), str(checkout / "tests")]
    import gpt2np

    assert Path(gpt2np.__file__).is_relative_to(checkout)


def attempt(*argv: str) -> tuple[int, str]:
    """Exit code of a command, and what it prints."""
    from gpt2np.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = main(list(argv))
    return code, out.getvalue()


def run(*argv: str) -> str:
    """What a command prints; it must succeed."""
    code, out = attempt(*argv)
    if code:
        sys.exit(f"gpt2np {' '.join(argv)}: exit code {code}")
    return out


def load(dtype: str = "float32") -> Any:
    """The model of this folder. Its name is the path by which it is given: files repeat it."""
    import gpt2np

    return gpt2np.load("model", dtype=dtype)


# -- the files ------------------------------------------------------------------------------------


def write_model() -> None:
    """The checkpoint by which the other files were made."""
    import tiny_checkpoint

    tiny_checkpoint.write(Path("model"))
    os.utime("model/model.safetensors", ns=(MODIFIED, MODIFIED))


def write_traces() -> None:
    """Traces of every kind, by `save`, by `out=` and on the command line."""
    model, double, some = load(), load("float64"), slice(1, None, 3)
    run("trace", TEXT, *"--model model --keep attn.* --keep ln_f --out traces/run.safetensors".split())
    edits = {"h.0.attn.q": lambda q: q * 0.5, "h.1.resid_mid": lambda x: x[:, ::-1]}
    derived = ["attn.q", "attn.heads", "ln_1.normalized", "ln_f.mean", "probabilities", "top_k_tokens"]
    mixed = {"patterns": ["attn.heads", "attn.q", "resid_post", "logits"], "positions": some}
    traces = {
        "full": model.trace(TEXT),
        "ids": model.trace(IDS, keep=["attn.qkv", "resid_*"]),
        "short": model.trace(SHORT),
        "float64": double.trace(SHORT),
        "float16": model.trace(TEXT, keep={"dtype": "float16"}),
        "positions": model.trace(TEXT, keep={"positions": some}),
        "edited": model.trace(SHORT, keep=["attn.*", "resid_*", "ln_f"], edits=edits),
        "stopped": model.trace(TEXT, stop_at_layer=1),
        "derived": model.trace(SHORT, keep=[*derived, "loss"]),
        "mixed": double.trace(TEXT, keep=mixed | {"dtype": "float16"}),
    }
    for name, trace in traces.items():
        trace.save(f"traces/{name}.safetensors")
    model.trace(PACKED, keep=["attn.pattern", "attn.qkv"], out="traces/packed")


def write_generations() -> None:
    """Traces of generations, and ledgers with and without raw logits."""
    import gpt2np
    from gpt2np.tables import strict_json

    model = load()
    keep = [word for site in [*STATISTICS, "logits"] for word in ("--keep", site)]
    out = "--out generations/sampled.safetensors --ledger generations/sampled.jsonl".split()
    run("generate", TEXT, "--model", "model", *SAMPLED, *keep, *out)
    out = "--keep resid_post --out generations/beams.safetensors".split()
    run("generate", TEXT, "--model", "model", *BEAMS, *out)

    options = {"repetition_penalty": 1.5, "eos": None, "ledger": True}
    greedy = model.generate(SHORT, max_new_tokens=3, keep=STATISTICS, **options).finish()
    greedy.trace.save("generations/greedy.safetensors")
    lines = [strict_json(entry.to_json(), indent=None) + "\n" for entry in greedy.ledger]
    Path("generations/greedy.jsonl").write_text("".join(lines), "utf-8")

    past = gpt2np.Trace.open("traces/full.safetensors", model)
    later = model.generate([*past.token_ids, 5], past=past, max_new_tokens=3, keep="attn.*").finish()
    later.trace.save("generations/continued.safetensors")
    edits = {"h.1.resid_post": lambda x, where: x + where.steps[:, None]}
    steered = model.generate(SHORT, edits=edits, max_new_tokens=3, keep=STATISTICS).finish()
    steered.trace.save("generations/steered.safetensors")


def write_kv_files() -> None:
    """Keys and values as JSON and `.safetensors`, and as JSON without what gpt2np adds to document 003."""
    from gpt2np.export.kv_json import GPT2KVCacheExtractor

    ids = ",".join(map(str, IDS))
    run("kv", "extract", TEXT, *"--model model --out kv/text.json".split())
    run("kv", "extract", TEXT, *"--model model --out kv/text.safetensors".split())
    run("kv", "extract", "--tokens", ids, *"--model model --top 2 --out kv/ids.safetensors".split())
    extractor = GPT2KVCacheExtractor(load())
    plain = extractor.extract_kv_cache(TEXT)
    for name in ("schema", "fingerprint", "digest", "input_token_ids"):
        del plain[name]
    extractor.save_to_json(plain, "kv/plain.json")


def write_exports() -> None:
    """Traces in every dialect and as every kind of file; and those files of llm.c that gpt2np reads."""
    for trace, name, dialect in EXPORTS:
        run(*export(trace, f"exports/{name}", dialect))
    with tempfile.TemporaryDirectory() as folder:
        run("export", "traces/short.safetensors", *"--to llm.c --model model -o".split(), folder)
        copy(LLMC, folder, "exports/llm.c")


def export(trace: str, out: str, dialect: str) -> list[str]:
    """The command that exports a trace; with its model it also gives what needs weights."""
    to = ["--to", out.rpartition(".")[2], "--dialect", dialect, "-o", out]
    return ["export", f"{trace}.safetensors", "--model", "model", *to]


def copy(names: tuple[str, ...], source: str, target: str) -> None:
    """Some files of a folder."""
    Path(target).mkdir(exist_ok=True)
    for name in names:
        shutil.copy(Path(source, name), target)


def write_captures() -> None:
    """An experiment of two prompts in both formats, and a sampled one."""
    Path("captures/two.json").write_text(json.dumps(PROMPTS, ensure_ascii=False), "utf-8")
    for argv in CAPTURES:
        run(*argv)


def write_datasets() -> None:
    """KV files of the lines of a text, of sampled prompts, and of random tokens."""
    Path("datasets/lines.txt").write_text(LINES, "utf-8")
    for argv in DATASETS:
        run(*argv)


def write_fixture() -> None:
    """What `gpt2np fixture` writes, but not the same again as text for other languages."""
    with tempfile.TemporaryDirectory() as folder:
        run("fixture", "--out", folder)
        copy(FIXTURE, folder, "fixture")


# -- what is expected of them ---------------------------------------------------------------------


def write_expected() -> None:
    """Read every file, and ask every question, in a copy of this folder."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(HERE, folder, dirs_exist_ok=True)
        os.chdir(folder)
        said = {
            "model": {"modified": MODIFIED, "fingerprint": load().checkpoint.fingerprint},
            "traces": {path: of_trace(path) for path in traces()},
            "exports": {path: of_export(path) for path in files("exports")},
            "exported": {f"exports/{name}": export(trace, name, of) for trace, name, of in EXPORTS},
            "ledgers": {path: of_ledger(path) for path in files("generations", suffixes=".jsonl")},
            "kv": {path: of_kv(path) for path in kv_files()},
            "captures": {path: of_capture(path) for path in files("captures")},
            "reruns": {" ".join(argv): rerun(argv) for argv in [*CAPTURES, *DATASETS]},
            "generated": [{"argv": argv, "out": json.loads(run(*argv))} for argv in GENERATED],
            "comparisons": {path: of_comparison(path) for path in compared()},
            "commands": list(answers()),
            "pages": list(pages()),
        }
        arrays = whole_arrays("traces/full.safetensors")
        os.chdir(HERE)
    Path("expected.json").write_text(as_json(said), "utf-8")
    np.savez_compressed("expected.npz", **arrays)


def files(*folders: str, suffixes: str | tuple[str, ...] = (".safetensors", ".npz")) -> list[str]:
    """The paths of all files of some kinds in these folders, in order."""
    found = [path.as_posix() for folder in folders for path in sorted(Path(folder).rglob("*.*"))]
    return [path for path in found if path.endswith(suffixes)]


def traces() -> list[str]:
    """Every trace in our own names."""
    return [*files("traces", "generations"), "fixture/trace.safetensors"]


def kv_files() -> list[str]:
    """Every file that is read as keys and values."""
    ours = files("kv", "datasets", suffixes=(".json", ".safetensors"))
    stored = [f"traces/{name}.safetensors" for name in ("full", "ids", "float16")]
    names = ("hf.npz", "guide.safetensors", "transformer_lens.npz", "llm.c.safetensors", "float16_hf.npz")
    return [*ours, *stored, *(f"exports/{name}" for name in names)]


def compared() -> list[str]:
    """Every file that `gpt2np compare` takes."""
    kept = [
        path for path in [*traces(), *files("exports", "kv")] if not re.search("posit|mixed|contin", path)
    ]
    return [*kept, *(f"exports/llm.c/{name}" for name in LLMC if name.endswith(".bin"))]


def of_trace(path: str) -> dict[str, Any]:
    """What a trace says; see `of_opened`."""
    from gpt2np import Trace

    return of_opened(Trace.open(path, model_of(path, Trace.open(path))))


def of_export(path: str) -> dict[str, Any]:
    """The same of a file in another dialect."""
    from gpt2np.export.dialects import read_dialect

    return of_opened(read_dialect(path, model_of(path, read_dialect(path))))


def model_of(path: str, trace: Any) -> Any:
    """The model that ran, in the precision in which it ran."""
    import gpt2np

    name = "fixture" if path.startswith("fixture") else "model"
    return gpt2np.load(name, dtype=trace.plan.dtype.name)


def of_opened(trace: Any) -> dict[str, Any]:
    """What a trace says, what is derived from it, and how many identities hold in it."""
    derived = {name: facts.summary(array) for name, array in facts.derived_arrays(trace).items()}
    said = facts.trace_facts(trace) | {"derived": derived, "verified": len(trace.verify().checked)}
    return said | ({"top": trace.top(3, trace.positions[-1])} if "logits" in trace.names() else {})


def whole_arrays(path: str) -> dict[str, np.ndarray]:
    """Arrays of a trace themselves, stored and derived, to show what is behind the digests."""
    from gpt2np import Trace

    trace = Trace.open(path, load())
    names = ("embed", "h.0.attn.pattern", "h.1.attn.qkv", "h.1.resid_post", "ln_f", "logits")
    return {name: trace[name] for name in names} | facts.derived_arrays(trace)


def of_ledger(path: str) -> list[Any]:
    """The entries of a ledger, a digest in the place of the raw logits."""
    entries = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    for entry in entries:
        if entry["raw_logits"] is not None:
            entry["raw_logits"] = facts.digest(np.array(entry["raw_logits"], np.float32))
    return entries


def of_kv(path: str) -> dict[str, Any]:
    """What a KV file says, and how its text goes on."""
    from gpt2np.export.kv_files import read_kv
    from gpt2np.export.kv_json import load_kv

    from gpt2np.errors import Gpt2npError

    kv = read_kv(path)
    said = facts.kv_facts(kv)
    with contextlib.suppress(Gpt2npError):  # no token ids, kept in half precision, or no room left
        said["continued"] = load_kv(path, load()).generate([5], max_new_tokens=2, eos=None).finish().token_ids
    return said


def of_capture(path: str) -> dict[str, Any]:
    """What a capture file says."""
    from gpt2np.export.capture_files import load_capture

    return facts.capture_facts(load_capture(path))


def rerun(argv: list[str]) -> dict[str, Any]:
    """What a command says that finds everything there."""
    return {"argv": argv, "out": json.loads(run(*argv))}


def of_comparison(path: str) -> dict[str, Any]:
    """The verdict on a file; the prompt is given where the file does not say it."""
    import gpt2np

    model = "fixture" if path.startswith("fixture") else "model"
    found = gpt2np.compare(path, model, SHORT if path.endswith(".bin") else None)
    return {"token_ids": list(found.token_ids), "verdict": found.verdict, "site": found.site}


def answers() -> Iterator[dict[str, Any]]:
    """The commands that take a file and work on it, with the answers of some."""
    for path in files("traces", "generations"):
        given, model = ["--trace", path], ["--model", "model"]
        whole = path == "traces/full.safetensors"
        for argv, is_told in (
            (["stats", *given, "--json"], whole or path == "generations/sampled.safetensors"),
            (["lens", *given, *model, "--json"], whole),
            (["heads", *given, *model, "--json"], whole),
            (["export", path, *model, *"--to ts -o out".split()], False),
            (["export", path, *model, *"--to llm.c -o out".split()], False),
            (["export", path, *model, *"--to csv --dialect guide -o out.csv".split()], False),
        ):
            code, out = attempt(*argv)
            if code == 0:
                yield {"argv": argv, "out": json.loads(out) if is_told else None}
    for path in ("kv/text.json", "kv/text.safetensors", "kv/plain.json", "exports/hf.npz"):
        argv = ["kv", "query", path, *QUESTIONS, "--json"]
        yield {"argv": argv, "out": json.loads(run(*argv))}


def pages() -> Iterator[dict[str, Any]]:
    """The files that `gpt2np view` shows, and what their pages say."""
    from gpt2np.viewer.packing import unpack

    shown = [["--trace", path] for path in files("traces")]
    shown += [["--generation", path] for path in files("generations")]
    for path in files("generations", suffixes=".jsonl"):
        shown.append(["--generation", path.replace("jsonl", "safetensors"), "--ledger", path])
    for given in shown:
        argv = ["view", *given, *"--model model --no-open --out page.html".split()]
        if attempt(*argv)[0] == 0:
            page = Path("page.html").read_text("utf-8")
            found = unpack(re.search(r'id="data">([^<]*)<', page)[1])[0]
            told = ["tokens", "prompt", *(["generation"] if "--ledger" in given else [])]
            yield {"argv": argv, "facts": {key: found[key] for key in told}}


def as_json(said: dict[str, Any]) -> str:
    """A section for each kind of files, and a line for each file."""
    sections = []
    for name, entries in said.items():
        pairs = entries.items() if isinstance(entries, dict) else [(None, entry) for entry in entries]
        lines = [("" if key is None else f"{line(key)}: ") + line(entry) for key, entry in pairs]
        left, right = "{}" if isinstance(entries, dict) else "[]"
        sections.append(f"{line(name)}: {left}\n" + ",\n".join(lines) + f"\n{right}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def line(node: Any) -> str:
    """JSON with six digits of every number."""
    return json.dumps(rounded(node), ensure_ascii=False, allow_nan=False)


def rounded(node: Any) -> Any:
    """The same with six digits of every number."""
    if isinstance(node, dict):
        return {key: rounded(child) for key, child in node.items()}
    if isinstance(node, list | tuple):
        return [rounded(child) for child in node]
    return float(f"{node:.6g}") if isinstance(node, float) else node


if __name__ == "__main__":
    main()
