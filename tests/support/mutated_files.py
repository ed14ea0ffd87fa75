"""Every kind of file that gpt2np reads: how a good one is made, and what becomes of one that is damaged.

`use` ends with a Gpt2npError or with an answer that it has checked; whatever else it raises is a mistake.
"""

import contextlib
import io
import json
import random
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from support import tiny_checkpoint as tiny
from support.file_mutators import mutated

import gpt2np
from gpt2np.capture.capture_files import load_capture, save_capture
from gpt2np.capture.formats import layer_internals
from gpt2np.capture.manifest import read_manifest
from gpt2np.capture.prompt_set import Prompt, PromptSet, load_prompt_set
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.cli import main
from gpt2np.cli.verbs import kv_tables
from gpt2np.errors import Gpt2npError
from gpt2np.export.dialects.dialect import Dialect
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.export.dialects.writing import write_dialect
from gpt2np.generation.ledger_file import with_ledger
from gpt2np.kv import datasets
from gpt2np.kv.extraction import extract_to_file
from gpt2np.kv.reading import read_kv
from gpt2np.kv.resume import load_kv
from gpt2np.reference.comparison import compare
from gpt2np.reference.token_comparison import compare_tokens
from gpt2np.text.byte_level_bpe import ByteLevelBPE
from gpt2np.text.tokenizer import Tokenizer
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.comparison_page import comparison_page

_HOME = tempfile.TemporaryDirectory()  # goes away with the process
IDS = tiny.IDS
TEXT = "the a in"


@dataclass(frozen=True)
class Kind:
    """A kind of file: `make` writes good ones into a folder, of which `files` are damaged, and `use` reads.

    `use` gets the folder and a number between 0 and 1 that chooses what is done; `share` of the tries is
    small where one takes long.
    """

    make: Callable[[Path], None]
    files: tuple[str, ...]
    use: Callable[[Path, float], bool | None]  # True: a command has refused them
    share: float = 1.0
    refuses: bool = True  # whether much of the damage is noticed


@cache
def small() -> gpt2np.Model:
    """The model of the good files: loaded once, and never read again."""
    return gpt2np.load(tiny.write(Path(_HOME.name) / "small"))


def check_error(error: Gpt2npError) -> None:
    """A message is one line that says something and that any terminal and file can take."""
    message = str(error)
    assert message.strip(), "an empty message"
    assert message.isprintable(), f"not printable: {message!r}"
    assert len(message) < 2000, f"{len(message)} characters: {message[:300]}"
    message.encode()


def check_report(text: str) -> None:
    """Printed text has no control characters but ends of lines."""
    for line in text.split("\n"):
        assert line.isprintable(), f"not printable: {line!r}"
    text.encode()


def check_finite(*arrays: np.ndarray) -> None:
    for array in arrays:
        assert np.isfinite(array).all(), "not finite"


# -- checkpoints ------------------------------------------------------------------------------------------


def checkpoint(weights: str = "model.safetensors", **files: object) -> Callable[[Path], None]:
    """A whole checkpoint and other JSON files beside it."""

    def make(folder: Path) -> None:
        tiny.write(folder, weights)
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")

    return make


def legacy_checkpoint(folder: Path) -> None:
    tiny.write(folder, "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_bytes(tiny.torch_file(tiny.tensors(), legacy=True))


def load_and_run(folder: Path, chance: float) -> None:
    """The model runs with finite logits, and its weights are what the reference reader reads."""
    model = gpt2np.load(folder)
    n = model.config.vocab_size
    check_finite(model([i % n for i in IDS[: model.config.n_positions]]))
    path = folder / "model.safetensors"
    if path.exists() and len(model.checkpoint.files) == 1 and chance < 0.3:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118
                ours = model.weights.get(name.removeprefix("transformer."))
                if ours is not None and file.get_slice(name).get_dtype() == "F32":
                    assert np.array_equal(ours, file.get_tensor(name), equal_nan=True), name
    if model.tokenizer is not None:
        check_tokenizer(model.tokenizer)


def check_tokenizer(tokenizer: Tokenizer, folder: Path | None = None) -> None:
    for text in (TEXT, "\x00é☃ \n"):
        ids = tokenizer.encode(text)
        if isinstance(tokenizer._engine, ByteLevelBPE):
            assert text in tokenizer.decode(ids), (text, ids)
        elif folder is not None and not tokenizer._engine._more:
            import tokenizers  # it has run already

            theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            theirs.encode_special_tokens = True
            theirs.no_truncation()
            theirs.no_padding()
            assert ids == theirs.encode(text).ids, (text, ids)  # which may lose what the damaged file lacks
        assert len(tokenizer.tokens(ids)) == len(ids)


def use_tokenizer(folder: Path, chance: float) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer is not None:
        check_tokenizer(tokenizer, folder)


def hf_tokenizer(folder: Path) -> None:
    """tokenizer.json alone, as HF writes it."""
    ids, merges = tiny.vocabulary()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = {"id": 299, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
             "end_of_word_suffix": "", "fuse_unk": False, "vocab": ids, "merges": merges}  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added | {"normalized": True, "special": True}],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": byte_level,
        "decoder": byte_level, "model": model,
    }  # fmt: skip
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")


TOKENIZER_CONFIG = {
    "tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
    "add_prefix_space": False, "model_max_length": 16, "unk_token": {"content": "<|endoftext|>"},
}  # fmt: skip
GENERATION_CONFIG = {"bos_token_id": 299, "eos_token_id": [299, 7], "transformers_version": "5.0.0"}

# -- traces -----------------------------------------------------------------------------------------------


def saved_trace(folder: Path) -> None:
    folder.mkdir()
    small().trace(TEXT, keep=["attn.*", "embed", "resid_post", "ln_f", "logits"]).save(
        folder / "t.safetensors"
    )


def generated_trace(folder: Path) -> None:
    folder.mkdir()
    done = small().generate(TEXT, max_new_tokens=3, keep="*", eos=None, ledger="full").finish()
    done.trace.save(folder / "t.safetensors")
    lines = (json.dumps(entry.to_json()) + "\n" for entry in done.ledger)
    (folder / "g.jsonl").write_text("".join(lines), "utf-8")


def use_trace(folder: Path, chance: float) -> None:
    path = folder / "t.safetensors"
    trace = Trace.open(path, small() if chance < 0.5 else None)
    assert trace.names() == list(trace.dims)
    repr(trace).encode()
    json.dumps(trace.metadata, allow_nan=False, ensure_ascii=False).encode()
    for token, _, p in trace.top(3) if np.isfinite(trace["logits"][-1]).all() else ():
        token.encode()
        assert 0 <= p <= 1
    if chance < 0.2:
        write_dialect(trace, folder / "out.json", "json")
        assert json.loads((folder / "out.json").read_text("utf-8"))["token_ids"] == trace.token_ids
    elif chance < 0.5 and all(np.isfinite(trace[n]).all() for n in trace.names() if "scores" not in n):
        str(gpt2np.view(trace)).encode()
    elif chance > 0.8:
        trace.save(folder / "again.safetensors")
        again = Trace.open(folder / "again.safetensors")
        assert again.metadata == trace.metadata


def use_ledger(folder: Path, chance: float) -> None:
    done = with_ledger(Trace.open(folder / "t.safetensors", small()), folder / "g.jsonl")
    done.text.encode()
    assert all(0 <= p <= 1.00001 for p in done.probabilities)
    if chance < 0.3:
        str(gpt2np.view(done)).encode()


DIALECTS = ("gpt2np", "guide", "hf", "transformer_lens", "llm.c")


def dialect_files(folder: Path) -> None:
    folder.mkdir()
    trace = small().trace(TEXT, keep=["attn.qkv", "attn.pattern", "embed", "resid_post", "ln_f"])
    for dialect in DIALECTS:
        write_dialect(trace, folder / f"{dialect}.npz", "npz", dialect)
    write_dialect(trace, folder / "hf.safetensors", "safetensors", "hf")


def use_dialects(folder: Path, chance: float) -> None:
    for path in sorted(folder.glob("*.npz")) + sorted(folder.glob("*.safetensors")):
        if path.name not in use_dialects.good:
            trace = read_dialect(path)
            assert trace.names()
            assert len(Dialect(trace, "guide").arrays) >= 0
            if chance < 0.2:
                write_dialect(trace, folder / "out.json", "json")


use_dialects.good = set()  # files that are not damaged in this try: read once is enough


def stats_and_export(folder: Path, chance: float) -> bool:
    path = str(folder / "t.safetensors")
    to = ("npz", "json", "csv", "safetensors", "ts")[int(chance * 5)]
    out = str(folder / ("folder" if to == "ts" else f"out.{to}"))
    for argv in (
        ["stats", "--trace", path],
        ["export", path, "--to", to, "-o", out],
        ["stats", "--json", "--trace", path],
    ):
        refused = check_command(argv) == 2
    return refused


def check_command(argv: list[str]) -> int:
    """A command ends with one of its exit codes, and prints nothing that a terminal would act on."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
    assert code in (0, 1, 2), code
    for text in (out.getvalue(), err.getvalue()):
        assert "Traceback" not in text
        check_report(text)
    assert code == 0 or err.getvalue().strip()
    return code


# -- captures ---------------------------------------------------------------------------------------------

SET = PromptSet("s", (Prompt(1, "the a"), Prompt("two", "in")))


def capture_file(folder: Path) -> None:
    folder.mkdir()
    done = small().generate("the", max_new_tokens=2, keep="*", eos=None).finish()
    save_capture(layer_internals(done, 1), folder / "c.safetensors")


def use_capture_file(folder: Path, chance: float) -> None:
    capture = load_capture(folder / "c.safetensors")
    for phase in ("prompt", "response"):
        "".join([capture[phase]["text"], *capture[phase]["tokens"]]).encode()


def capture_folder(folder: Path) -> None:
    capture_prompts(small(), SET, folder, options=Options(1))


def use_manifest(folder: Path, chance: float) -> None:
    if chance < 0.5:
        for entry in read_manifest(folder):
            json.dumps(vars(entry), allow_nan=False, ensure_ascii=False).encode()
    else:
        entries, _ = capture_prompts(small(), SET, folder, options=Options(1))
        assert [str(entry.id) for entry in entries] == ["1", "two"]


def prompt_set(folder: Path) -> None:
    folder.mkdir()
    rows = [{"id": 1, "text": "the", "note": "n"}, {"id": "b", "text": "é"}]
    (folder / "mine.json").write_text(json.dumps({"description": "d", "prompts": rows}), "utf-8")


def use_prompt_set(folder: Path, chance: float) -> None:
    found = load_prompt_set(str(folder / "mine.json"))
    assert found.prompts
    "".join([found.description, *(f"{p.id}{p.text}{p.note}" for p in found.prompts)]).encode()


# -- keys and values --------------------------------------------------------------------------------------


def kv_file(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        extract_to_file(small(), TEXT, folder / f"kv{suffix}", 2)

    return make


def use_kv(folder: Path, chance: float) -> None:
    path = next(folder.glob("kv.*"))
    kv = read_kv(path)
    "".join([kv.model, *kv.tokens, kv.text or ""]).encode()
    if chance < 0.3:
        load_kv(path, small())
        check_finite(*(array for pair in kv.layers for array in pair))
    elif chance < 0.4:
        check_command(["kv", "query", str(path), "--json", "--info", "--layer-summary", "0"])


def kv_folder(folder: Path) -> None:
    list(datasets.write_dataset(small(), datasets.texts(["the a", "in"], small()), folder, ".safetensors"))


def use_kv_folder(folder: Path, chance: float) -> None:
    sources = datasets.texts(["the a", "in", "on"], small())
    entries = [entry for entry, _ in datasets.write_dataset(small(), sources, folder, ".safetensors")]
    assert [entry["source"]["text"] for entry in entries] == ["the a", "in", "on"]
    kv_tables.files(entries).encode()


# -- what is held against ours ----------------------------------------------------------------------------

DUMPED = ("embed", "h.0.attn.qkv", "h.0.attn.pattern", "h.1.mlp.post", "logits")


@cache
def dumped() -> dict[str, np.ndarray]:
    trace = small().trace(IDS)
    return {name: np.array(trace[name]) for name in DUMPED}


def dump(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        write(folder)

    return make


def debug_state(folder: Path) -> None:
    head = np.array([20240327, 2, 1, len(IDS)] + [0] * 252, "<i4").tobytes()
    ids = np.array([IDS, IDS], "<i4").tobytes()
    logits = dumped()["logits"].astype("<f4").tobytes()
    (folder / "d.bin").write_bytes(head + ids + logits + np.array([2.5], "<f4").tobytes())


def raw_numbers(folder: Path) -> None:
    arrays = dumped()
    (folder / "d.bin").write_bytes(b"".join(a.astype("<f4").tobytes() for a in arrays.values()))
    (folder / "shapes.json").write_text(json.dumps({n: a.shape for n, a in arrays.items()}))


def use_dump(folder: Path, chance: float) -> None:
    path = next(path for path in sorted(folder.iterdir()) if path.name != "shapes.json")
    shapes = folder / "shapes.json"
    # in most tries everything is within noise: to look for mistakes takes a second
    limits = {} if chance < 0.02 else {"rtol": 1e30, "atol": 1e30}
    found = compare(path, small(), IDS, shapes=shapes if shapes.exists() else None, **limits)
    check_report(str(found))
    comparison_page(found.to_dict()).encode()
    json.dumps(found.to_dict(), ensure_ascii=False).encode()


def their_tokens(folder: Path) -> None:
    folder.mkdir()
    ids = small().tokenizer.encode(TEXT)
    (folder / "ids.json").write_text(json.dumps({"input_ids": ids}))
    (folder / "ids.txt").write_text(" ".join(map(str, ids)))
    (folder / "ids.bin").write_bytes(np.array(ids, "<u2").tobytes())
    np.save(folder / "ids.npy", np.array(ids))


def use_their_tokens(folder: Path, chance: float) -> None:
    for path in sorted(folder.glob("ids.*")):
        found = compare_tokens(small().tokenizer, TEXT, str(path))
        check_report(str(found))


def npz_dump(folder: Path) -> None:
    np.savez(folder / "d.npz", **dumped())


BIN = "pytorch_model.bin"
KINDS = {
    "capture_file": Kind(capture_file, ("c.safetensors",), use_capture_file),
    "checkpoint_safetensors": Kind(checkpoint(), ("model.safetensors",), load_and_run),
    "cli_stats_export": Kind(saved_trace, ("t.safetensors",), stats_and_export, 0.5),
    "config_json": Kind(checkpoint(), ("config.json",), load_and_run),
    "dialect_file": Kind(dialect_files, (*(f"{d}.npz" for d in DIALECTS), "hf.safetensors"), use_dialects),
    "dump_llmc": Kind(dump(debug_state), ("d.bin",), use_dump, 0.25),
    "dump_npy": Kind(
        dump(lambda f: np.save(f / "logits.npy", dumped()["logits"])), ("logits.npy",), use_dump, 0.25
    ),
    "dump_npz": Kind(dump(npz_dump), ("d.npz",), use_dump, 0.4),
    "dump_raw": Kind(dump(raw_numbers), ("d.bin", "shapes.json", "shapes.json"), use_dump, 0.25),
    "dump_safetensors": Kind(
        dump(lambda f: (f / "d.safetensors").write_bytes(tiny.safetensors(dumped()))),
        ("d.safetensors",), use_dump, 0.4,
    ),
    "dump_torch": Kind(
        dump(lambda f: (f / "d.pt").write_bytes(tiny.torch_file(dumped()))), ("d.pt",), use_dump, 0.25
    ),
    "generation_config_json": Kind(
        checkpoint(generation_config=GENERATION_CONFIG),
        ("generation_config.json",),
        load_and_run,
    ),
    "kv_index": Kind(kv_folder, ("index.jsonl",), use_kv_folder),
    "kv_json": Kind(kv_file(".json"), ("kv.json",), use_kv),
    "kv_safetensors": Kind(kv_file(".safetensors"), ("kv.safetensors",), use_kv),
    "ledger": Kind(generated_trace, ("g.jsonl",), use_ledger),
    "ledger_trace": Kind(generated_trace, ("t.safetensors",), use_ledger, 0.7),
    "manifest": Kind(capture_folder, ("manifest.jsonl",), use_manifest),
    "prompt_set": Kind(prompt_set, ("mine.json",), use_prompt_set),
    "pytorch_bin_legacy": Kind(legacy_checkpoint, (BIN,), load_and_run),
    "pytorch_bin_zip": Kind(checkpoint(BIN), (BIN,), load_and_run),
    "saved_trace": Kind(saved_trace, ("t.safetensors",), use_trace),
    "shard_index": Kind(tiny.write_sharded, ("model.safetensors.index.json",), load_and_run),
    "their_tokens": Kind(their_tokens, ("ids.json", "ids.txt", "ids.bin", "ids.npy"), use_their_tokens),
    "tokenizer_config_json": Kind(
        checkpoint(tokenizer_config=TOKENIZER_CONFIG), ("tokenizer_config.json",), load_and_run
    ),
    "tokenizer_json": Kind(hf_tokenizer, ("tokenizer.json",), use_tokenizer),
    "vocabulary_files": Kind(checkpoint(), ("vocab.json", "merges.txt"), use_tokenizer),
}  # fmt: skip


class Folder:
    """The good files of a kind, and tries that damage one of them."""

    def __init__(self, kind: Kind, path: Path) -> None:
        self.kind, self.path = kind, path
        kind.make(path)
        self.good = {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
        use_dialects.good = set()
        assert not kind.use(path, 0.99)  # good files are fine
        self.restore()

    def restore(self) -> None:
        """Every file as it was, and nothing else."""
        for path in self.path.rglob("*"):
            if path.is_file() and path not in self.good:
                path.unlink()
        for path, content in self.good.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)

    def attempt(self, name: str, content: bytes, chance: float) -> bool:
        """Use the files with one of them replaced; whether that was refused, as it should be."""
        (self.path / name).write_bytes(content)
        use_dialects.good = {path.name for path in self.good} - {name}
        try:
            return bool(self.kind.use(self.path, chance))
        except Gpt2npError as error:
            check_error(error)
            return True
        finally:
            self.restore()

    def chosen(self, kind: str, seed: int, number: int) -> tuple[str, bytes, float]:
        """The file of a try, what it becomes, and what is done with it; the same for the same numbers."""
        rng = random.Random(zlib.crc32(f"{kind} {seed} {number}".encode()))
        name = rng.choice(self.kind.files)
        return name, mutated(self.good[self.path / name], rng), rng.random()
