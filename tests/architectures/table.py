"""What every verb and public function does for every architecture: a checked value, or a line that refuses.

A new architecture is a line in `MODELS`, and its refusals here. `test_table.py` runs every cell.
"""

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from support import gemma2_checkpoint, gpt_neo_checkpoint, made_up, tiny_checkpoint
from support.command_line import run
from support.differences import relative_error

import gpt2np
from gpt2np.analysis import paths, two_prompts
from gpt2np.analysis.attribution import attribution, components, frozen_ln_f, head_grid
from gpt2np.analysis.circuits import through_ln_f
from gpt2np.analysis.heads import nearest_of_each, nearest_tokens, tokens_read
from gpt2np.analysis.interventions import project, zero
from gpt2np.capture import open_capture
from gpt2np.tracing.lines import held_token_table
from gpt2np.tracing.packed_pass import Pass, Sequence

TEXT, OTHER = "the on in er", "the in on er"  # as many tokens, in the vocabulary of `tiny_checkpoint`
FIVE, NINE = 53, 57  # the ids of "5" and "9"


def _gpt2(folder):
    tiny_checkpoint.write(folder)


def _gpt_neo(folder):
    gpt_neo_checkpoint.write(folder, "GL", max_position_embeddings=16)
    _with_vocabulary(folder)


def _gemma2(folder):
    gemma2_checkpoint.write(folder, max_position_embeddings=16)
    _with_vocabulary(folder)


def _made_up(folder):
    made_up.write(folder, n_layer=2, n_positions=16)
    _with_vocabulary(folder)


def _with_vocabulary(folder):
    vocabulary, merges = tiny_checkpoint.vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("\n".join(merges), "utf-8")


MODELS: Mapping[str, Callable[[Any], None]] = {
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "gemma2": _gemma2,
    "made_up": _made_up,
}


class Case:
    """A model of an architecture in double precision, its folder, and a folder to work in."""

    def __init__(self, folder, work, capsys=None):
        self.folder, self.work, self.capsys = folder, work, capsys
        self.model = gpt2np.load(folder, dtype="float64")
        self.ids = self.model.tokenizer.encode(TEXT)
        self.trace = self.model.trace(TEXT)
        self.config, self.n = self.model.config, len(self.ids)

    def call(self, *argv):
        """What a verb prints with `--json`, its code checked."""
        code, out, err = run(self.capsys, *argv)
        if code == 2:
            raise gpt2np.Gpt2npError(err.strip().splitlines()[-1])
        assert code == 0, err
        return json.loads(out)

    def verb(self, name, *argv):
        """The same for a verb that takes a model."""
        return self.call(name, *argv, "--model", self.folder, "--dtype", "float64", "--json")


@dataclass(frozen=True)
class Row:
    """A verb or a function: `run` it, `check` what comes of it; `refused` has the line of who lacks it."""

    run: Callable[[Case], Any]
    check: Callable[[Case, Any], None]
    refused: Mapping[str, str] = field(default_factory=dict)


def near(found, expected, noise=1e-9):
    return relative_error(np.asarray(found, float), np.asarray(expected, float)) < noise


def chances(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def greedy(c, n):
    """The continuation, each token by a whole pass."""
    ids = list(c.ids)
    for _ in range(n):
        ids.append(int(c.model(ids)[-1].argmax()))
    return ids[len(c.ids) :]


def loss(c):
    return -np.log(chances(c.trace["logits"])[np.arange(c.n - 1), c.ids[1:]]).mean()


def linear_logits(c):
    """The logits before a cap, if there is one: what the stream's parts add up to."""
    return c.trace["logits_raw" if "logits_raw" in c.config.architecture.sites else "logits"]


def cached_keys(c):
    """The keys of layer 1 as later positions read them."""
    return c.trace[f"h.1.{c.config.architecture.cache[0]}"]


def last(c, name):
    return c.trace[f"h.{c.config.n_layer - 1}.{name}"]


def saved(c):
    path = c.work / "t.safetensors"
    c.trace.save(path)
    return path


def generated(c):
    return c.model.generate(TEXT, max_new_tokens=4, keep="*").finish()


def runs(c):
    return c.trace, c.model.trace(OTHER)


def metric():
    from gpt2np.analysis.patching import logit_difference

    return logit_difference(FIVE, NINE)


def equal(expected):
    """A check: what came is what a function of the case computes by another way."""

    def check(c, found):
        assert near(found, expected(c)), (found, expected(c))

    return check


def true(statement):
    def check(c, found):
        assert statement(c, found), found

    return check


def words(*argv):
    return lambda c: c.verb(*argv)


def gpt2_only(what):
    """The lines of the others where something is of a program for GPT-2 alone."""
    return {name: f"{name} has no {what}: only gpt2 has" for name in MODELS if name != "gpt2"}


NO_CAP = {name: f"{name} has no soft cap" for name in ("gpt2", "gpt_neo", "made_up")}
NO_CHAT = dict.fromkeys(("gpt2", "gpt_neo", "made_up"), "has no chat template") | {
    "gemma2": "the vocabulary has no <bos>"
}
GATED = {"gemma2": r"gemma2's h\.\d\.mlp\.out is not one product with a matrix"}
NO_CIRCUITS = {name: f"{name} has no circuits yet" for name in ("gemma2", "made_up")}


# -- the command line --------------------------------------------------------------------------------


def _score(c):
    (c.work / "text").write_text(TEXT)
    return c.verb("score", c.work / "text")["loss"]


def _view(c):
    c.verb("view", TEXT, "--no-open", "--out", c.work / "page.html")
    return (c.work / "page.html").read_text("utf-8")


def _compare(c):
    return c.call("compare", saved(c), "--model", c.folder, "--json")


def _export(kind, *options):
    def export(c):
        c.call(
            "export",
            saved(c),
            "--to",
            kind,
            "-o",
            c.work / f"out.{kind}",
            *options,
            "--model",
            c.folder,
            "--json",
        )
        from gpt2np.export.dialects import read_dialect

        return read_dialect(c.work / f"out.{kind}", c.model)

    return export


def _extract(c):
    c.call("kv", "extract", TEXT, "--out", c.work / "kv.json", "--model", c.folder, "--json")
    content = json.loads((c.work / "kv.json").read_text())
    return content["kv_cache"]["layer_1"]["head_1"]["tokens"][3]["key"]


def _query(c):
    c.call("kv", "extract", TEXT, "--out", c.work / "kv.safetensors", "--model", c.folder, "--json")
    return c.call("kv", "query", c.work / "kv.safetensors", "--coordinate", "1", "1", "3", "--json")


def _dataset(c):
    (c.work / "texts").write_text(f"{TEXT}\n{OTHER}\n")
    c.call(
        *("kv", "dataset", "--text-file", c.work / "texts", "--output-dir", c.work / "many"),
        *("--model", c.folder, "--json"),
    )
    return sorted(p.name for p in (c.work / "many").iterdir())


def _capture(c):
    c.verb("capture", "--prompt", TEXT, "--experiment", "e", "--output", c.work, "--max-new-tokens", "2")
    from gpt2np.capture.capture_files import load_capture

    (file,) = (c.work / "e").rglob("residual/**/*.safetensors")
    return load_capture(file)


def _fixture(c):
    c.call("fixture", "--out", c.work / "fixture", "--json")
    return gpt2np.load(c.work / "fixture").trace([1, 2]).verify()


def _shown(c):
    """What `--show` prints of every site of layer 1 and outside of layers, stored or derived."""
    names = [
        name for name, _, layer in c.config.architecture.sites.expand(c.config.n_layer) if layer in (None, 1)
    ]
    options = [word for name in names for word in ("--show", name)]
    return {name: site["values"] for name, site in c.verb("trace", TEXT, *options)["sites"].items()}


def _as_shown(c, found):
    """Each is the trace's, where what is not finite is null."""
    for name, values in found.items():
        array = np.asarray(c.trace[name], float)
        shown = np.array(values, float)
        assert np.array_equal(np.isfinite(array), np.isfinite(shown)), name
        assert near(np.nan_to_num(shown), np.where(np.isfinite(array), array, 0)), name
    return len(found) > 25


def _of_another_model(c):
    return c.call("trace", "--trace", saved(c), "--show", "ln_f", "--model", "tiny")


def _kept_by_generate(c):
    """The file of a generation, beside one pass over its tokens."""
    c.verb("generate", TEXT, "--max-new-tokens", "4", "--out", c.work / "made.safetensors", "--eos", "none")
    made = gpt2np.Trace.open(c.work / "made.safetensors", c.model)
    return made, c.model.trace(made.token_ids)


def _stitched(c, found):
    made, once = found
    for name in once.names():
        array, expected = (np.nan_to_num(trace[name], neginf=0) for trace in found)
        assert near(array, expected), name
    return made.names() == once.names() and len(made.token_ids) == c.n + 3


def _json(c):
    """The arrays of `export --to json`."""
    c.call("export", saved(c), "--to", "json", "-o", c.work / "t.json", "--model", c.folder, "--json")
    return {
        name: entry["data"] for name, entry in json.loads((c.work / "t.json").read_text())["arrays"].items()
    }


def _csv(c):
    """The number of lines of `export --to csv`, and those of one array."""
    c.call("export", saved(c), "--to", "csv", "-o", c.work / "t.csv", "--model", c.folder, "--json")
    lines = (c.work / "t.csv").read_text().splitlines()[1:]
    return len(lines), [float(line.split(",")[-1]) for line in lines if line.startswith("h.1.attn.out,")]


def _kv_of_another(c):
    from gpt2np.kv.resume import load_kv

    c.call("kv", "extract", TEXT, "--out", c.work / "kv.json", "--model", c.folder, "--json")
    return load_kv(c.work / "kv.json", gpt2np.load())


VERBS = {
    "trace": Row(
        words("trace", TEXT), true(lambda c, found: found["top"][0]["id"] == c.trace["logits"][-1].argmax())
    ),
    "trace --show": Row(_shown, true(_as_shown)),
    "trace --show attention_weights": Row(
        words("trace", TEXT, "--show", "attention_weights"),
        true(lambda c, found: len(found["sites"]) == c.config.n_layer),
        {name: r"only gpt2 has .* name; here it is 'attn\.pattern'" for name in MODELS if name != "gpt2"},
    ),
    "trace --show attn.qkv": Row(
        words("trace", TEXT, "--show", "attn.qkv"),
        true(lambda c, found: len(found["sites"]) == c.config.n_layer),
        {name: "gpt2 has it, and this model has not" for name in MODELS if name != "gpt2"},
    ),
    "trace --trace": Row(
        lambda c: c.verb("trace", "--trace", saved(c)),
        true(lambda c, found: found["top"][0]["id"] == c.trace["logits"][-1].argmax()),
    ),
    "trace --trace, of another model": Row(
        _of_another_model,
        true(lambda c, found: False),
        dict.fromkeys(MODELS, r"of another model than tiny, of .*model: give that one \(--model .*model\)"),
    ),
    "trace --zero-head": Row(
        words("trace", TEXT, "--zero-head", "1.1", "--show", "h.1.attn.out"),
        true(
            lambda c, found: near(
                found["sites"]["h.1.attn.out"]["values"],
                c.model.trace(TEXT, edits={"h.1.attn.z": zero(heads=1)})["h.1.attn.out"],
            )
        ),
    ),
    "generate --out": Row(_kept_by_generate, true(_stitched)),
    "generate --chat": Row(words("generate", TEXT, "--chat"), true(lambda c, found: False), NO_CHAT),
    "generate": Row(
        words("generate", TEXT, "--max-new-tokens", "4"),
        true(lambda c, found: found["response"]["token_ids"] == greedy(c, 4)),
    ),
    "score": Row(_score, equal(loss)),
    "tokenize": Row(
        lambda c: c.call("tokenize", TEXT, "--model", c.folder, "--json"),
        true(lambda c, found: found["token_ids"] == c.ids),
    ),
    "lens": Row(
        words("lens", TEXT, "--token", "9"),
        true(
            lambda c, found: near(found["probability"]["values"][-1][0], chances(c.trace["logits"])[-1, NINE])
        ),
    ),
    "lens --before-cap": Row(
        words("lens", TEXT, "--token", "9", "--before-cap"),
        true(
            lambda c, found: near(found["probability"]["values"][-1][0], chances(linear_logits(c))[-1, NINE])
        ),
        NO_CAP,
    ),
    "lens --heads": Row(
        words("lens", TEXT, "--heads"),
        true(
            lambda c, found: near(
                found["raised"]["values"][1][1][0],
                head_grid(attribution(c.trace, found["raised_ids"]["values"][1][1][0])).array[1, 1],
            )
        ),
    ),
    "heads --against": Row(
        words("heads", TEXT, "--token", "9", "--against", "5"),
        true(
            lambda c, found: near(
                found.get("after_cap", found["sum"]),
                c.trace["logits"][-1, NINE] - c.trace["logits"][-1, FIVE],
            )
        ),
    ),
    "heads": Row(
        words("heads", TEXT, "--token", "9"),
        true(lambda c, found: near(found["sum"], linear_logits(c)[-1, NINE])),
    ),
    "circuits": Row(
        words("circuits"),
        true(lambda c, found: np.shape(found["scores"]["values"]) == (7, 2, 2)),
        NO_CIRCUITS,
    ),
    "circuits --parameters": Row(
        words("circuits", "--parameters"),
        true(lambda c, found: sum(row[0] for row in found["parameters"]["values"]) == c.model.n_parameters),
    ),
    "circuits TEXT": Row(words("circuits", TEXT), true(lambda c, found: "sparsity" in found)),
    "circuits --norms": Row(words("circuits", "--norms"), true(lambda c, found: "norms" in found)),
    "circuits --head": Row(
        words("circuits", "--head", "1.1"), true(lambda c, found: found["head"] == "1.1"), NO_CIRCUITS
    ),
    "circuits --neuron": Row(
        words("circuits", "--neuron", "1.3"),
        true(lambda c, found: len(found["writes"]) == c.config.n_embd),
        GATED,
    ),
    "stats": Row(
        words("stats", TEXT),
        true(lambda c, found: near(found["attention"]["values"][0][0][2], 1 / c.n)),
    ),
    "patch": Row(
        words("patch", TEXT, OTHER, "--answer", "5", "--wrong", "9"),
        true(
            lambda c, found: near(found["clean"]["logit_difference"], metric()(c.trace["logits"][-1]), 1e-6)
        ),
    ),
    "patch --chat": Row(
        words("patch", TEXT, OTHER, "--answer", "5", "--wrong", "9", "--chat"),
        true(lambda c, found: False),
        NO_CHAT,
    ),
    "compare --chat": Row(
        lambda c: c.call("compare", saved(c), "--prompt", TEXT, "--chat", "--model", c.folder, "--json"),
        true(lambda c, found: False),
        NO_CHAT,
    ),
    "view": Row(_view, true(lambda c, found: "Content-Security-Policy" in found and len(found) > 100_000)),
    "compare": Row(
        _compare, true(lambda c, found: found["verdict"] == "within-noise" and len(found["sites"]) > 20)
    ),
    "fixture": Row(_fixture, true(lambda c, found: found.checked)),
    "kv extract": Row(_extract, true(lambda c, found: near(found, cached_keys(c)[3, 1], 1e-5))),  # in float32
    "kv query": Row(
        _query, true(lambda c, found: near(found["coordinate"]["key"], cached_keys(c)[3, 1], 1e-5))
    ),
    "kv dataset": Row(_dataset, true(lambda c, found: len(found) == 3)),
    "capture": Row(_capture, true(lambda c, found: len(found) >= 2)),
    "kv extract, of another model": Row(
        _kv_of_another,
        true(lambda c, found: False),
        dict.fromkeys(MODELS, r"kv\.json: is of another model|kv\.json: does not say|model has"),
    ),
    "export json": Row(_json, true(lambda c, found: near(found["h.1.attn.out"], c.trace["h.1.attn.out"]))),
    "export csv": Row(
        _csv,
        true(
            lambda c, found: (
                found[0] == sum(array.size for array in c.trace.values())
                and near(found[1], c.trace["h.1.attn.out"].ravel())
            )
        ),
    ),
    "export npz": Row(_export("npz"), true(lambda c, found: near(found["logits"], c.trace["logits"]))),
    "export hf": Row(
        _export("npz", "--dialect", "hf"),
        true(lambda c, found: near(found["h.1.attn.pattern"], c.trace["h.1.attn.pattern"])),
    ),
    "export transformer_lens": Row(
        _export("safetensors", "--dialect", "transformer_lens"),
        true(lambda c, found: near(found["h.1.attn.z"], c.trace["h.1.attn.z"])),
    ),
    "export guide": Row(
        _export("npz", "--dialect", "guide"),
        true(lambda c, found: near(found["logits"], c.trace["logits"])),
        refused=gpt2_only("names of the extraction guide"),
    ),
    "export ts": Row(
        lambda c: c.call(
            "export", saved(c), "--to", "ts", "-o", c.work / "ts", "--model", c.folder, "--json"
        ),
        true(lambda c, found: (c.work / "ts" / "extraction.bin").stat().st_size > 1000),
        refused=gpt2_only("TypeScript interface"),
    ),
    "export llm.c": Row(
        lambda c: c.call(
            "export", TEXT, "--to", "llm.c", "-o", c.work / "llmc", "--model", c.folder, "--json"
        ),
        true(lambda c, found: len(list((c.work / "llmc").iterdir())) >= 4),
        refused=gpt2_only("files of llm.c"),
    ),
    "sites": Row(
        lambda c: c.call("sites", "--model", c.folder, "--json"),
        true(lambda c, found: len(found) == len(c.config.architecture.sites.sites)),
    ),
    "plan": Row(
        words("plan", "9", "--generating"),
        true(lambda c, found: found["plans"][0]["bytes"] == c.model.plan(9).nbytes),
    ),
    "info": Row(
        lambda c: c.call("info", "--model", c.folder, "--json"),
        true(lambda c, found: sum(found["parameters_by_component"].values()) == c.model.n_parameters),
    ),
    "completion": Row(
        lambda c: run(c.capsys, "completion", "bash")[1], true(lambda c, found: "trace" in found)
    ),
    "learn": Row(lambda c: c.call("learn", "--json"), true(lambda c, found: len(found) == 7)),
    "docs": Row(
        lambda c: c.call("docs", "--json"), true(lambda c, found: found["sites"] == "The sites of a trace")
    ),
    "download": Row(
        lambda c: c.call("download", str(c.folder)),
        true(lambda c, found: False),
        refused=dict.fromkeys(MODELS, "is here already"),
    ),
}


# -- Python ------------------------------------------------------------------------------------------

ANALYSES = """attribution baseline_notebook circuits directions heads interventions layer_norms lens losses
    matrices neurons parameter_counts patching paths
    residual_stream site_values statistics two_prompts""".split()
OF_A_RUN = {"trace", "run", "model", "clean", "attributed", "generated", "traces"}


def public_functions():
    """What `gpt2np` offers, the methods of Model and Trace, and every analysis of a model or a run."""
    yield from (f"gpt2np.{name}" for name in gpt2np.__all__ if inspect.isfunction(getattr(gpt2np, name)))
    for cls in (gpt2np.Model, gpt2np.Trace):
        methods = (name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name)))
        yield from (f"{cls.__name__}.{name}" for name in methods)
    yield "Model.__call__"
    for name in ANALYSES:
        module = importlib.import_module(f"gpt2np.analysis.{name}")
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                first = next(iter(inspect.signature(function).parameters), "")
                if not function.__name__.startswith("_") and first in OF_A_RUN:
                    yield f"{name}.{function.__name__}"


def analysis(name, *arguments, of="trace"):
    """A function of an analysis, called with the trace, the model or the generation of a case."""
    module, function = name.split(".")

    def call(c):
        subject = {"trace": lambda: c.trace, "model": lambda: c.model, "generated": lambda: generated(c)}[
            of
        ]()
        called = getattr(importlib.import_module(f"gpt2np.analysis.{module}"), function)
        return called(subject, *arguments)

    return call


def of(name, statement, *arguments, of="trace", **refused):
    """The row of an analysis by its name."""
    return {name: Row(analysis(name, *arguments, of=of), true(statement), refused)}


def last_resid_name(c):
    return f"h.{c.model.config.n_layer - 1}.resid_post"


def last_resid(folder, prompt):
    """The last residual stream of a captured prompt."""
    return list(open_capture(folder).rows(prompt).values())[-1]


def _compared(c):
    dump = {name: c.trace[name] for name in c.trace.names()} | {"h.1.mlp.out": c.trace["h.1.mlp.out"] * 1.01}
    return gpt2np.compare(dump, c.model, c.ids)


def _opened(c):
    return gpt2np.Trace.open(saved(c), model=c.model)


def _zeroed(edit):
    """A run in which one layer's mlp.out is what an intervention makes of it."""

    def run(c):
        from gpt2np.analysis import interventions

        return c.model.trace(TEXT, edits={"h.1.mlp.out": edit(interventions, c.model.trace(OTHER))})

    return run


def _frozen(c):
    from gpt2np.analysis.interventions import freeze

    return c.model.trace(TEXT, edits={"h.1.ln_1": freeze(c.trace)})


def _patched(name, *arguments):
    def patched(c):
        from gpt2np.analysis import patching

        return getattr(patching, name)(*runs(c), metric(), *arguments)

    return patched


def _writes(c):
    """What every component writes at the last position, by the trace's own sites."""
    return sum(np.linalg.norm(c.trace[f"h.{i}.mlp.out"][-1]) for i in range(c.config.n_layer))


def _entropy(c):
    """Entropy of attention in nats: [step, layer, head], mean over the queries."""
    p = c.trace.stack("attn.pattern")
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1).mean(-1)[None]


HAS = {"made_up": "made_up has no"}

FUNCTIONS = {
    "gpt2np.load": Row(
        lambda c: gpt2np.load(c.folder, dtype="float64"),
        true(lambda c, found: near(found(c.ids), c.trace["logits"])),
    ),
    "gpt2np.read_config": Row(
        lambda c: gpt2np.read_config(c.folder), true(lambda c, found: found == c.config)
    ),
    "gpt2np.view": Row(
        lambda c: gpt2np.view(c.trace).html,
        true(lambda c, found: "Content-Security-Policy" in found),
    ),
    "gpt2np.compare": Row(
        _compared, true(lambda c, found: found.verdict == "wrong" and found.site == "h.1.mlp.out")
    ),
    "Model.__call__": Row(lambda c: c.model(TEXT, last=True), equal(lambda c: c.trace["logits"][-1])),
    "Model.trace": Row(
        lambda c: c.model.trace([TEXT, OTHER])[0],
        true(lambda c, found: near(found["logits"], c.trace["logits"])),
    ),
    "Model.capture": Row(
        lambda c: c.model.capture([TEXT, OTHER], "captured", keep="resid_post", store="float64"),
        true(lambda c, found: near(last_resid(found.folder, 0), c.trace[last_resid_name(c)])),
    ),
    "Model.find_id": Row(
        lambda c: c.model.find_id(c.model.tokenizer.tokens(c.ids)[1]),
        true(lambda c, found: found == c.ids[1]),
    ),
    "Model.plan": Row(lambda c: c.model.plan(c.n).nbytes, equal(lambda c: c.trace.nbytes)),
    "Model.generate": Row(
        lambda c: generated(c), true(lambda c, found: found.token_ids[c.n :] == greedy(c, 4))
    ),
    "Model.score": Row(lambda c: c.model.score(TEXT).loss, equal(loss)),
    "Model.token_ids": Row(lambda c: c.model.token_ids(TEXT), true(lambda c, found: found == c.ids)),
    "Model.chat_prompt": Row(  # a vocabulary with the tokens of turns: tests/text/test_begin_and_chat.py
        lambda c: c.model.chat_prompt(TEXT),
        true(lambda c, found: False),
        NO_CHAT,
    ),
    "Model.tokens": Row(lambda c: c.model.tokens(c.ids), true(lambda c, found: "".join(found) == TEXT)),
    "Model.decode": Row(lambda c: c.model.decode(c.ids), true(lambda c, found: found == TEXT)),
    "Model.origin": Row(lambda c: c.model.origin(), true(lambda c, found: found["fingerprint"])),
    "Model.with_weights": Row(
        lambda c: c.model.with_weights(dict(c.model.weights)),
        true(
            lambda c, found: (
                near(found(TEXT), c.trace["logits"])
                and found.checkpoint.fingerprint != c.model.checkpoint.fingerprint
            )
        ),
    ),
    "Model.run_pass": Row(
        lambda c: c.model.run_pass(Pass(c.config, c.model.dtype, [Sequence(np.array(c.ids))])),
        equal(lambda c: c.trace["logits"]),
    ),
    "Trace.derive": Row(
        lambda c: c.trace.derive("probabilities", None), equal(lambda c: chances(c.trace["logits"]))
    ),
    "Trace.names": Row(
        lambda c: c.trace.names(), true(lambda c, found: len(found) == len(c.model.plan(c.n).entries))
    ),
    "Trace.keys": Row(lambda c: c.trace.keys(), true(lambda c, found: list(found) == c.trace.names())),
    "Trace.values": Row(
        lambda c: list(c.trace.values()), true(lambda c, found: found[-1] is c.trace["logits"])
    ),
    "Trace.items": Row(
        lambda c: dict(c.trace.items()), true(lambda c, found: found["logits"] is c.trace["logits"])
    ),
    "Trace.get": Row(
        lambda c: (c.trace.get("logits"), c.trace.get("nothing", 5)),
        true(lambda c, found: found[0] is c.trace["logits"] and found[1] == 5),
    ),
    "Trace.stack": Row(lambda c: c.trace.stack("attn.k")[1], equal(lambda c: c.trace["h.1.attn.k"])),
    "Trace.top": Row(lambda c: c.trace.top(1)[0][1], equal(lambda c: c.trace["logits"][-1].argmax())),
    "Trace.top_k_tokens": Row(
        lambda c: c.trace.top_k_tokens(3)[:, 0], equal(lambda c: c.trace["logits"].argmax(-1))
    ),
    "Trace.token": Row(lambda c: c.trace.token(c.ids[1]), true(lambda c, found: found == c.trace.tokens[1])),
    "Trace.parameters": Row(
        lambda c: c.trace.parameters(), true(lambda c, found: found is c.model.parameters)
    ),
    "Trace.verify": Row(
        lambda c: c.trace.verify(), true(lambda c, found: found.checked and not found.skipped)
    ),
    "Trace.to": Row(
        lambda c: c.trace.to("hf")["past_key_values"][1][0],
        equal(lambda c: cached_keys(c).swapaxes(0, 1)[None]),
    ),
    "Trace.save": Row(saved, true(lambda c, found: found.stat().st_size > c.trace.nbytes)),
    "Trace.open": Row(_opened, true(lambda c, found: near(found["logits"], c.trace["logits"]))),
    "Trace.model_for": Row(lambda c: c.trace.model_for("this"), true(lambda c, found: found is c.model)),
    "Trace.source_files": Row(
        lambda c: c.trace.source_files(), true(lambda c, found: c.folder / "config.json" in found)
    ),
    "Trace.check_model": Row(
        lambda c: _opened(c).check_model(c.model, "here"), true(lambda c, found: found is None)
    ),
    **of(
        "attribution.components",
        lambda c, found: near(found.array.sum(0), last(c, "resid_post")),
    ),
    **of(
        "attribution.attribution", lambda c, found: near(found.array.sum(), linear_logits(c)[-1, NINE]), NINE
    ),
    **of(
        "paths.paths_through_heads",
        lambda c, found: np.isnan(found.array).any() and np.isfinite(found.array).any(),
        NINE,
        of="trace",
        **NO_CIRCUITS,
    ),
    "paths.every_path": Row(
        lambda c: paths.every_path(c.trace, components(c.trace), np.eye(c.config.n_embd)[:2], c.n - 1),
        true(lambda c, found: found.shape[0] == 2 and found.shape[2] == c.n),
        NO_CIRCUITS,
    ),
    "paths.paths_of_layers": Row(
        lambda c: paths.paths_of_layers(
            c.trace, components(c.trace), np.eye(c.config.n_embd)[None, :2], [c.n - 1]
        ),
        true(lambda c, found: len(found[0]) == c.config.n_layer),
        NO_CIRCUITS,
    ),
    **of("attribution.logit_direction", lambda c, found: found[0].shape == (c.config.n_embd,), NINE),
    "attribution.frozen_ln_f": Row(
        lambda c: frozen_ln_f(c.trace, last(c, "resid_post")[-1:], c.n - 1),
        true(lambda c, found: near(frozen_ln_f(c.trace, 2 * last(c, "resid_post")[-1:], c.n - 1), 2 * found)),
    ),
    "attribution.head_grid": Row(
        lambda c: head_grid(attribution(c.trace, NINE)),
        true(lambda c, found: found.array.shape == (c.config.n_layer, c.config.n_head)),
    ),
    **of("attribution.writers", lambda c, found: near(found.array[:, 2].sum(), 1)),
    **of("attribution.similarity", lambda c, found: near(np.diag(found.array), np.ones(len(found.array)))),
    **of("baseline_notebook.architecture", lambda c, found: f"{c.model.n_parameters:,}" in found),
    **of(
        "baseline_notebook.text_of",
        lambda c, found: found == c.model.decode(c.ids + greedy(c, 4)),
        of="generated",
    ),
    **of("baseline_notebook.generation", lambda c, found: str(c.n) in found, of="generated"),
    **of("baseline_notebook.shapes", lambda c, found: f"[1, {c.config.n_head}, {c.n}, {c.n}]" in found),
    **of("baseline_notebook.attention_values", lambda c, found: f"{1 / c.n:.4f}"[:5] in found),
    **of("baseline_notebook.hidden_values", lambda c, found: f"{c.trace['embed'].max():.4f}" in found),
    **of(
        "baseline_notebook.comparison",
        lambda c, found: f"{np.linalg.norm(c.trace['embed'][-1]):.4f}" in found,
    ),
    **of("baseline_notebook.notebook", lambda c, found: f"torch.Size([1, {c.n}, " in found),
    **of("baseline_notebook.summary", lambda c, found: f"Prompt tokens: {c.n}" in found),
    **of("circuits.head_weights", lambda c, found: found.W_Q.size, 1, 1, of="model", **NO_CIRCUITS),
    **of("circuits.folded_weights", lambda c, found: found.W_Q.size, 1, 1, of="model", **NO_CIRCUITS),
    **of("circuits.circuit_norms", lambda c, found: (found.array > 0).all(), of="model", **NO_CIRCUITS),
    **of(
        "circuits.copying_scores", lambda c, found: (abs(found.array) <= 1).all(), of="model", **NO_CIRCUITS
    ),
    **of(
        "circuits.effective_embedding",
        lambda c, found: len(found) == c.config.vocab_size,
        of="model",
        **GATED,
    ),
    **of(
        "circuits.composition_scores",
        lambda c, found: np.isfinite(found.array).any(),
        "k",
        of="model",
        **NO_CIRCUITS,
    ),
    **of(
        "circuits.stacked_heads",
        lambda c, found: len(found.W_Q) == c.config.n_layer * c.config.n_head,
        of="model",
        **NO_CIRCUITS,
    ),
    **of("circuits.every_head", lambda c, found: len(found) == c.config.n_layer, of="model", **NO_CIRCUITS),
    **of(
        "circuits.compositions",
        lambda c, found: [*found] == ["q", "k", "v"],
        of="model",
        **NO_CIRCUITS,
    ),
    **of(
        "circuits.token_circuits",
        lambda c, found: found.array.shape == (2, c.config.n_layer, c.config.n_head, c.n, c.n),
        TEXT,
        of="model",
        **NO_CIRCUITS,
    ),
    **of(
        "circuits.token_scores",
        lambda c, found: len(found.array) == c.n,
        1,
        1,
        TEXT,
        of="model",
        **NO_CIRCUITS,
    ),
    **of(
        "circuits.token_effects",
        lambda c, found: len(found.array) == c.n,
        1,
        1,
        TEXT,
        of="model",
        **NO_CIRCUITS,
    ),
    **of(
        "circuits.normalised_embedding",
        lambda c, found: found.shape == (2, c.config.n_embd),
        [3, 4],
        of="model",
    ),
    "circuits.through_ln_f": Row(
        lambda c: through_ln_f(c.model, c.trace["ln_f"]), true(lambda c, found: len(found) == c.n)
    ),
    **of("directions.interference", lambda c, found: (found.array[:, 3] <= 1).all(), of="model", **GATED),
    **of(
        "directions.subspace_overlap",
        lambda c, found: np.nanmax(found.array) <= 1 + 1e-9,
        "v",
        of="model",
        **NO_CIRCUITS,
    ),
    **of(
        "losses.loss_without_positions",
        lambda c, found: np.isfinite(found.loss) and found.loss != loss(c),
        TEXT,
        of="model",
        gemma2="gemma2 has no position embedding",
        made_up="made_up has no position embedding",
    ),
    **of(
        "losses.loss_with_held_norms",
        lambda c, found: np.isfinite(found.loss) and found.loss != loss(c),
        TEXT,
        of="model",
    ),
    "two_prompts.stream_distance": Row(
        lambda c: two_prompts.stream_distance(*runs(c)).array[-1, 2],
        equal(lambda c: np.linalg.norm(c.trace["ln_f"][-1])),
    ),
    "two_prompts.attention_difference": Row(
        lambda c: two_prompts.attention_difference(c.trace, c.trace).array,
        true(lambda c, found: found.shape == (c.config.n_layer, c.config.n_head) and not found.any()),
    ),
    "two_prompts.prediction_difference": Row(
        lambda c: two_prompts.prediction_difference(*runs(c), k=1).array[0, 2],
        true(lambda c, found: 0 < abs(found) < 1),
    ),
    "two_prompts.alignment": Row(
        lambda c: two_prompts.alignment(*runs(c)), true(lambda c, found: (0, 0) in found)
    ),
    "two_prompts.lens_difference": Row(
        lambda c: two_prompts.lens_difference(*runs(c), (1, 2)).array[-1, 0],
        equal(
            lambda c: np.subtract(*c.trace["logits_raw" if "logits_raw" in c.trace else "logits"][-1, [1, 2]])
        ),
    ),
    "two_prompts.divergence": Row(
        lambda c: two_prompts.divergence(*runs(c)), true(lambda c, found: found > 0)
    ),
    **of(
        "heads.head_scores",
        lambda c, found: ((found.array >= 0) & (found.array <= 1 + 1e-9)).all(),
        5,
        2,
        of="model",
    ),
    **of(
        "heads.attention_scores",
        lambda c, found: found.array.shape[1:] == (c.config.n_layer, c.config.n_head),
    ),
    "heads.nearest_tokens": Row(
        lambda c: nearest_tokens(c.model, c.trace["ln_f"][-1])[0].id,
        equal(lambda c: c.trace["logits"][-1].argmax()),
    ),
    "heads.tokens_read": Row(
        lambda c: tokens_read(c.model, c.trace["embed"][-1])[0].id, true(lambda c, found: 0 <= found < 300)
    ),
    **of("circuits.several_heads", lambda c, found: len(found) == 2, 1, [0, 1], of="model", **NO_CIRCUITS),
    **of(
        "heads.strongest_directions",
        lambda c, found: found.ids.shape == (2, 2, 1, 2, 3),
        1,
        [0, 1],
        1,
        3,
        of="model",
        **NO_CIRCUITS,
    ),
    **of(
        "heads.every_direction",
        lambda c, found: found.ids.shape == (c.config.n_layer, c.config.n_head, 2, 1, 2, 3),
        1,
        3,
        of="model",
        **NO_CIRCUITS,
    ),
    "heads.nearest_of_each": Row(
        lambda c: nearest_of_each(
            c.model, held_token_table(c.config, c.model.parameters), c.trace["embed"], 1
        ),
        true(lambda c, found: len(found) == c.n),
    ),
    **of("heads.reads_and_writes", lambda c, found: len(found) == 2, 1, 1, 1, of="model", **NO_CIRCUITS),
    "interventions.mean": Row(
        _zeroed(lambda made, other: made.mean(other)),
        true(lambda c, found: near(found["h.1.mlp.out"][0], c.model.trace(OTHER)["h.1.mlp.out"].mean(0))),
    ),
    "interventions.patch": Row(
        _zeroed(lambda made, other: made.patch(other)),
        true(lambda c, found: near(found["h.1.mlp.out"], c.model.trace(OTHER)["h.1.mlp.out"])),
    ),
    "interventions.freeze": Row(_frozen, true(lambda c, found: near(found["logits"], c.trace["logits"]))),
    "interventions.project": Row(
        lambda c: project(c.trace, np.eye(c.config.n_embd)[2]).array,
        equal(lambda c: c.trace.stack("resid_post")[:, :, 2]),
    ),
    **of(
        "matrices.matrix",
        lambda c, found: near(
            c.trace["h.1.ln_1"] @ found.weight + (0 if found.bias is None else found.bias),
            c.trace["h.1.attn.v"].reshape(c.n, -1),
        ),
        "W_V",
        1,
        of="model",
    ),
    **of("matrices.every_matrix", lambda c, found: len(found) > 6 * c.config.n_layer, of="model"),
    **of("layer_norms.norm_parameters", lambda c, found: found.array.size, of="model"),
    **of("layer_norms.norm_statistics", lambda c, found: np.isfinite(found.array).any(), of="model"),
    **of("lens.predictions", lambda c, found: found[-1][1][0][1] == c.trace["logits"][-1].argmax()),
    **of(
        "lens.logit_lens",
        lambda c, found: near(found.probability.array[-1, -1], chances(c.trace["logits"])[-1, NINE]),
        NINE,
    ),
    **of(
        "lens.nearest_rows",
        lambda c, found: near(
            found.array[0, 0], c.trace["logits_raw" if "logits_raw" in c.trace else "logits"][-1].max()
        ),
    ),
    **of("lens.attention_lens", lambda c, found: found.raised.array.shape[1] == c.config.n_head),
    **of(
        "neurons.neuron",
        lambda c, found: found.writes.shape == (c.config.n_embd,),
        1,
        3,
        of="model",
        **GATED,
    ),
    **of(
        "neurons.several_neurons",
        lambda c, found: len(found) == 2,
        [(0, 1), (1, 3)],
        of="model",
        **GATED,
    ),
    **of(
        "neurons.neuron_activations", lambda c, found: near(found.array, c.trace["h.1.mlp.post"][:, 3]), 1, 3
    ),
    **of(
        "neurons.most_active", lambda c, found: near(found.array[0], c.trace.stack("mlp.post")[:, -1].max())
    ),
    **of(
        "neurons.neuron_attribution",
        lambda c, found: found.array.shape == (c.config.d_mlp,) and np.isfinite(found.array).all(),
        NINE,
        1,
    ),
    **of(
        "neurons.written_by_mlp",
        lambda c, found: found[0].weight.shape == (c.config.d_mlp, c.config.n_embd),
        1,
        [0],
    ),
    **of("neurons.sparsity", lambda c, found: found.array.shape[0] == c.config.n_layer),
    **of(
        "parameter_counts.parameter_shares",
        lambda c, found: found.array[:, 0].sum() == c.model.n_parameters,
        of="model",
    ),
    "patching.sweep": Row(
        _patched("sweep"),
        true(lambda c, found: found.array.shape == (c.config.n_layer, c.config.n_head)),
    ),
    "patching.path_sweep": Row(
        _patched("path_sweep", "h.1.attn.q"), true(lambda c, found: found.array.shape == (1, c.config.n_head))
    ),
    "patching.path_patch": Row(
        _patched("path_patch", "h.0.attn.z", "h.1.attn.q"), true(lambda c, found: np.isfinite(found))
    ),
    **of("residual_stream.magnitude_ratios", lambda c, found: found.array.shape[-1] == c.config.n_embd),
    **of("residual_stream.basis_alignment", lambda c, found: len(found.array) == 1 + 2 * c.config.n_layer),
    **of("residual_stream.kurtosis", lambda c, found: (found.array >= 1).all()),
    **of("residual_stream.erasure", lambda c, found: np.nanmin(found.array) >= 0),
    **of("residual_stream.opposition", lambda c, found: np.nanmax(found.array) <= 1 + 1e-9),
    **of("residual_stream.amplification", lambda c, found: np.nanmin(found.array) >= 0),
    **of("residual_stream.agreement", lambda c, found: np.nanmax(found.array) <= 1 + 1e-9),
    **of("residual_stream.memory", lambda c, found: len(found) == 4),
    **of("site_values.site_values", lambda c, found: near(found.array, c.trace["h.1.attn.k"]), "h.1.attn.k"),
    **of("statistics.trace_of", lambda c, found: found is c.trace),
    **of(
        "statistics.steps", lambda c, found: [len(step) for step in found] == [c.n, 1, 1, 1], of="generated"
    ),
    **of("statistics.n_generated", lambda c, found: found == 4, of="generated"),
    **of("statistics.attention_statistics", lambda c, found: np.isfinite(found.array).all()),
    **of("statistics.entropy", lambda c, found: near(found.array, _entropy(c))),
    **of("statistics.distance", lambda c, found: (found.array >= 0).all()),
    **of("statistics.first_token", lambda c, found: (found.array <= 1 + 1e-9).all()),
    **of("statistics.saturation", lambda c, found: (found.array <= 1).all()),
    **of("statistics.attention_summary", lambda c, found: np.isfinite(found.array).all()),
    **of("statistics.hidden_states", lambda c, found: near(found[-1], c.trace["ln_f"])),
    **of("statistics.hidden_state_statistics", lambda c, found: np.isfinite(found.array).all()),
    **of("statistics.layer_comparison", lambda c, found: np.isfinite(found.array).all()),
    **of("statistics.comparison_by_step", lambda c, found: np.isfinite(found.array).all(), of="generated"),
}
