"""Tables of quantities are true: functions exist, and each command prints the quantity's values.

They are in the pages about the vector-level view and the baseline notebook. Every command of them runs here,
on `tiny`, with real values for its placeholders: as text and with
`--json`, whose numbers are held against the functions of the row.
"""

import importlib
import itertools
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import gpt2np
from gpt2np.analysis import (
    attribution,
    baseline_notebook,
    circuits,
    directions,
    heads,
    layer_norms,
    lens,
    losses,
    neurons,
    parameter_counts,
    patching,
    residual_stream,
    site_values,
    statistics,
    two_prompts,
)
from gpt2np.architectures.gpt2.config import RELEASED
from gpt2np.cli import main
from gpt2np.tables import number, quoted

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

ROOT = Path(__file__).parents[2]
PAGES = ("vector_level_view", "baseline_notebook")
LINES = [
    line
    for name in PAGES
    for line in (ROOT / "gpt2np" / "docs" / f"{name}.md")
    .read_text("utf-8")
    .partition("<!-- quantities -->")[2]
    .partition("<!-- /quantities -->")[0]
    .splitlines()
]
ROWS = [[cell.strip() for cell in line.split("|")[1:5]] for line in LINES if line.startswith("| ")]
ROWS = [row for row in ROWS if row[1] != "function" and not row[0].startswith("---")]

TEXT, CLEAN, CORRUPT, OTHER = "Elizabeth was not", "Elizabeth was", "Darcy was", "Mr. Darcy was"
PLACES = {
    "TEXT": TEXT,
    "CLEAN": CLEAN,
    "CORRUPT": CORRUPT,
    "T": " a",
    "T2": " in",
    "OTHER": OTHER,
    "A": " not",
    "B": " a",
}
FILES = {
    "--out": "out.safetensors",
    "--ledger": "ledger.jsonl",
    "--png": "p.png",
    "--trace": "in.safetensors",
    "score": "text.txt",
}


def ids(row):
    return row[0][:40]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


COMMANDS = sorted({command for row in ROWS for command in names(row[2])})


# -- what the rows name exists ---------------------------------------------------------------------


def test_the_tables_are_there():
    assert len(ROWS) > 35
    assert all(names(cell) for row in ROWS for cell in row[1:])


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_functions(row, tiny):
    for name in names(row[1]):
        head, _, rest = name.partition(".")
        if name.startswith("trace["):
            site = re.search(r'"(.+)"', name)[1].replace("h.i.", "h.1.")
            assert tiny.trace(TEXT)[site].size
            assert any(f"--show {site}" in command for command in names(row[2])), f"nothing shows {site}"
        elif name.startswith("model.weights["):
            assert re.search(r'"(.+)"', name)[1] in tiny.weights
        elif head.startswith("model"):
            assert hasattr(tiny, re.split(r"[.(]", rest)[0] or "__call__")
        elif head == "trace":
            assert hasattr(gpt2np.Trace, rest)
        elif head == "generated":
            from gpt2np.generation.generated import Generated

            assert hasattr(Generated, rest)
        else:
            module, _, function = name.rpartition(".")
            module = module if module.startswith("gpt2np.") else f"gpt2np.analysis.{module}"
            assert getattr(importlib.import_module(module), function).__doc__


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_tests(row):
    text = "".join((ROOT / "tests" / f"{name}.py").read_text("utf-8") for name in names(row[3]))
    for function in re.findall(r"`[a-z_]+\.([a-z_]+)`", row[1]):
        assert function in text, f"{row[3]} does not mention {function}"


# -- what the commands print -----------------------------------------------------------------------


class Ran:
    """A command of the tables and what it printed: as text, and as JSON."""

    def __init__(self, command, capsys, tiny):
        words = shlex.split(command)
        assert words[0] == "gpt2np"
        self.argv = []
        for before, word in itertools.pairwise(words):
            self.argv.append(FILES[before] if word == "FILE" else PLACES.get(word, word))
        if "in.safetensors" in self.argv:
            tiny.trace(TEXT, out="in.safetensors")
        if "text.txt" in self.argv:
            Path("text.txt").write_text(TEXT, "utf-8")
        self.out = self._run(capsys, self.argv)
        again = ["--force"] if {"--out", "--ledger", "--png"} & {*self.argv} else []
        if "--notebook" not in self.argv:  # which has no other form
            self.facts = json.loads(self._run(capsys, [*self.argv, *again, "--json"]))

    def _run(self, capsys, argv):
        code = main(argv)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    def has(self, *texts):
        """Whether the text shows all of these, whatever stands between them."""
        missing = [text for text in texts if " ".join(text.split()) not in " ".join(self.out.split())]
        assert not missing, f"{missing} not in:\n{self.out}"


def same(found, expected):
    """Values of a `to_json` or a plain list: equal but for rounding; null where they are not finite."""
    if isinstance(found, dict):
        if isinstance(expected, np.ndarray):
            found = found["values"]
        else:
            assert found["axes"] == list(expected.axes)
            assert found["labels"] == {axis: list(labels) for axis, labels in expected.labels.items()}
            found, expected = found["values"], expected.array
    expected = np.where(np.isfinite(expected), expected, np.nan)
    np.testing.assert_allclose(np.array(found, float), expected, rtol=1e-4, atol=1e-5)


def shows(ran, model, trace):
    sites = [ran.argv[i + 1] for i, word in enumerate(ran.argv) if word == "--show"]
    assert list(ran.facts["sites"]) == sites
    for site in sites:
        found = site_values.site_values(trace, site)
        same(ran.facts["sites"][site], found)
        best = np.unravel_index(
            0 if "vocab" not in found.axes else found.array[0].argmax(), found.array.shape
        )
        part = next(p for p in ran.out.split("\n\n") if p.startswith(f"{site}\n"))
        assert found.title.splitlines()[1][:60] in part
        if "vocab" not in found.axes:
            assert number(float(found.array[best])) in part.split()


def tokens(ran, model, _):
    ids = model.tokenizer.encode(TEXT)
    assert [t["marked"] for t in ran.facts["tokens"]] == model.tokenizer.tokens(ids, marked=True)
    assert ran.facts["token_ids"] == ids
    ran.has("Ġwas", "Ġnot")


def info(ran, model, _):
    parts = ran.facts["parameters_by_component"]
    assert parts["token embedding"] == model.weights["wte.weight"].size
    assert parts["position embedding"] == model.weights["wpe.weight"].size
    assert ran.facts["parameters"] == model.n_parameters == sum(parts.values())
    assert not any("untied" in part for part in parts)  # tied: counted once
    ran.has(f"{parts['token embedding']:,}", f"total {model.n_parameters:,}")


def parameters(ran, model, _):
    found = parameter_counts.parameter_shares(RELEASED["gpt2"] if "gpt2" in ran.argv else model)
    same(ran.facts["parameters"], found)
    for name, (n, share, _) in zip(found.labels["component"], found.array.tolist(), strict=True):
        ran.has(f"{name} {int(n):,} {share:.1%}")


def sum_of_writes(ran, model, trace):
    found = attribution.attribution(trace, int(trace["logits"][-1].argmax()))
    same(ran.facts["attribution"], found)
    same(ran.facts["writers"], attribution.writers(trace))
    same(ran.facts["similarity"], attribution.similarity(trace))
    same(ran.facts["heads"], attribution.head_grid(found))
    parts = attribution.components(trace, pos=-1)
    assert parts.array.sum(axis=0)[0] == pytest.approx(trace["h.3.resid_post"][-1], rel=1e-4, abs=1e-4)
    assert ran.facts["sum"] == pytest.approx(float(trace["logits"][-1].max()), rel=1e-4)
    assert trace.verify()
    written = attribution.writers(trace)
    measures = dict(zip(written.labels["component"], written.array.tolist(), strict=True))
    for (name,), adds in found.largest(10):
        ran.has(" ".join([name, number(adds), *(number(x) for x in measures.get(name, [])[:2])]))
    ran.has(f"all together {number(ran.facts['sum'])}")
    for layer, row in enumerate(attribution.head_grid(found).array):
        ran.has(f"{layer} " + " ".join(f"{x:.3f}" for x in row))


def direct_path(ran, model, trace):
    found = attribution.attribution(trace, (" a", " in"))
    same(ran.facts["attribution"], found)
    logits = trace["logits"][-1]
    assert ran.facts["sum"] == pytest.approx(logits[258] - logits[298], abs=1e-4)
    ran.has("logit difference | a| (258) - | in| (298)", number(found.largest(1)[0][1]))


def of_the_text(name):
    return getattr(neurons, name, None) or getattr(residual_stream, name)


def of_a_text(ran, model, trace):
    pairs = {"opposition": "erasure", "agreement": "amplification"}
    for name in (*pairs, *pairs.values(), "basis_alignment", "kurtosis", "most_active", "sparsity"):
        same(ran.facts[name], of_the_text(name)(trace))
    same(ran.facts["attention"], heads.attention_scores(trace))
    for cosines, shares in pairs.items():
        cosines, shares = (of_the_text(name)(trace) for name in (cosines, shares))
        index = {name: i for i, name in enumerate(shares.labels["writer"])}
        for (writer, other), cosine in cosines.largest(10):
            share = float(shares.array[index[writer], index[other]])
            ran.has(f"{writer} {other} {cosine:.2f} {number(share)}")
    ran.has(
        *(
            str(of_the_text(name)(trace))
            for name in ("basis_alignment", "kurtosis", "sparsity", "most_active")
        )
    )
    ran.has(str(heads.attention_scores(trace)))


def merged(ran, model, trace):
    tokens(ran, model, trace)
    for told in ran.facts["tokens"]:
        made = model.tokenizer.merges(told["id"])
        assert [m["pieces"] for m in told["merges"]] == [m.pieces for m in made]
        ran.has(*(f"merge {m.number:,} {' '.join(m.pieces)}" for m in made))
    parts = model.tokenizer.parts()
    assert ran.facts["vocabulary"] == parts
    ran.has(f"{parts['bytes']} bytes + {parts['merges']:,} merges + {parts['added']} added = 2,048 tokens")


def scored(function, name):
    def check(ran, model, _):
        found = function(model, TEXT).loss
        assert ran.facts[name] == pytest.approx(found)
        assert ran.facts["loss"] == pytest.approx(model.score(TEXT).loss)
        ran.has(f"{name} {found:.4f}")

    return check


def of_directions(ran, model, _):
    found = directions.interference(model)
    same(ran.facts["interference"], found)
    for name, (_, *cosines) in zip(found.labels["set"], found.array.tolist(), strict=True):
        ran.has(name, " ".join(f"{x:.4f}" for x in cosines))


def overlap(ran, model, _):
    found = directions.subspace_overlap(model, "k")
    same(ran.facts["overlap"], found)
    ((writer, reader), value) = found.largest(1)[0]
    ran.has(f"{writer} {reader} {value:.3f}")


def of_two_prompts(ran, model, trace):
    other = model.trace(OTHER)
    parts = {
        "stream": two_prompts.stream_distance(trace, other),
        "predictions": two_prompts.prediction_difference(trace, other, k=5),
        "attention": two_prompts.attention_difference(trace, other),
    }
    for name, part in parts.items():
        same(ran.facts[name], part)
    apart = [two_prompts.divergence(trace, other), two_prompts.divergence(other, trace)]
    assert ran.facts["divergence"] == pytest.approx(apart, rel=1e-3)
    ran.has("here other", *(number(x) for x in parts["attention"].array[1]), f"{number(apart[0])} nats")


def the_notebook(ran, model, _):
    run = model.generate(TEXT, max_new_tokens=40, keep="*").finish()
    assert NUMBER.sub("#", ran.out) == NUMBER.sub("#", baseline_notebook.notebook(run) + "\n")


def composition(ran, model, _):
    found = circuits.composition_scores(model, "k")
    same(ran.facts["composition"], found)
    ((writer, reader), value) = found.largest(1)[0]
    ran.has(f"{writer} {reader} {value:.3f}")


def patched(function, **options):
    def check(ran, model, _):
        metric = patching.logit_difference(315, 258)
        runs = [model.trace(text) for text in (CLEAN, CORRUPT)]
        clean, corrupt = (metric(run["logits"][-1]) for run in runs)
        found = function(*runs, metric, **options)
        same(ran.facts["map"], (found.array - corrupt) / (clean - corrupt))
        assert ran.facts["clean"]["logit_difference"] == pytest.approx(clean, abs=1e-5)
        ran.has(f"after CLEAN {clean:.3f}, after CORRUPT {corrupt:.3f}")
        ran.has(*(f"{round(x, 2) + 0.0:.2f}" for x in ran.facts["map"]["values"][0]))

    return check


def all_norms(ran, model, _):
    same(ran.facts["norms"], layer_norms.norm_parameters(model))
    same(ran.facts["statistics"], layer_norms.norm_statistics(model))
    for j, name in enumerate(layer_norms.norm_parameters(model).labels["norm"]):
        for i in range(2):
            spread = layer_norms.norm_statistics(model).array[i, j, :4].tolist()
            ran.has(f"{name} {' '.join(map(number, spread))}")


def one_norm(ran, model, _):
    scale, shift = model.weights["h.1.ln_2.weight"], model.weights["h.1.ln_2.bias"]
    same(ran.facts["norm"], np.stack([scale, shift]))
    for each in (scale, shift):
        ran.has(*(number(float(x)) for x in each))  # every value is on the terminal


def own_matrices(ran, model, _):
    for name, array in circuits.head_weights(model, 1, 2)._asdict().items():
        same(ran.facts[name], array)
        ran.has(f"{name} of head 1.2", number(float(array.ravel()[0])), number(float(array.ravel()[-1])))


def one_head(ran, model, _):
    found = heads.reads_and_writes(model, 1, 2)
    assert [d["strength"] for d in ran.facts["directions"]] == pytest.approx(
        [d.strength for d in found], rel=1e-4
    )
    for told, direction in zip(ran.facts["directions"], found, strict=True):
        assert [t["id"] for t in told["reads"]] == [t.id for t in direction.reads]
        assert [t["id"] for t in told["writes"]] == [t.id for t in direction.writes]
        ran.has(f"strength {direction.strength:.3g}", quoted(direction.reads[0].token, 14))
    written = circuits.through_ln_f(model, model.parameters.lm_head[0])
    assert heads.nearest_tokens(model, written, k=3)[0].dot == pytest.approx(
        (model.parameters.lm_head @ written).max()
    )


def one_head_of_a_text(ran, model, trace):
    one_head(ran, model, trace)
    for name, function in (("qk", circuits.token_scores), ("ov", circuits.token_effects)):
        found = function(model, 1, 2, TEXT)
        same(ran.facts[name], found)
        ran.has(str(found))


def all_heads(ran, model, _):
    found = np.array(ran.facts["scores"]["values"])
    assert found[:4] == pytest.approx(heads.head_scores(model).array, rel=1e-4)
    assert found[4] == pytest.approx(circuits.copying_scores(model).array, rel=1e-4, abs=1e-5)
    assert found[5:] == pytest.approx(circuits.circuit_norms(model).array, rel=1e-4)
    for layer in range(4):
        for head in range(4):
            ran.has(f"{layer}.{head} " + " ".join(f"{x:.2f}" for x in found[:, layer, head]))


def logit_lens(ran, model, trace):
    found = lens.logit_lens(trace, pos=-1)
    for name in ("top_ids", "top_probabilities", "probability", "rank", "entropy", "kl"):
        same(ran.facts[name], getattr(found, name))
    for i, site in enumerate(found.kl.labels["site"]):
        top, share = int(found.top_ids.array[i, 0, 0]), found.top_probabilities.array[i, 0, 0]
        numbers = [found.probability, found.rank, found.entropy, found.kl]
        shown = " ".join(f"{max(float(x.array[i, 0]), 0):.3g}" for x in numbers)
        ran.has(f"{site} {quoted(model.tokens([top])[0], 12)} {share:.3g} {shown}")


def attention_lens(ran, model, trace):
    found = lens.attention_lens(trace, k=3)
    for name in ("raised_ids", "raised", "lowered_ids", "lowered"):
        same(ran.facts[name], getattr(found, name))
    ran.has(f"h.1.attn.head.2 {quoted(model.tokens([int(found.raised_ids.array[1, 2, 0])])[0], 14)}")
    ran.has(f"{found.raised.array[1, 2, 0]:+.2f}")


def one_neuron(ran, model, _):
    found = neurons.neuron(model, 1, 5)
    same(ran.facts["reads"], found.reads)
    same(ran.facts["writes"], found.writes)
    same([ran.facts["bias"]], np.array([found.bias]))
    for side in ("excited_by", "inhibited_by", "raises", "lowers"):
        assert [t["id"] for t in ran.facts[side]] == [t.id for t in getattr(found, side)]
        ran.has(quoted(getattr(found, side)[0].token, 14))


def one_neuron_of_a_text(ran, model, trace):
    one_neuron(ran, model, trace)
    found = neurons.neuron_activations(trace, 1, 5)
    same(ran.facts["activations"], found)
    ran.has(str(found))


def greedy(ran, model, _):
    done = model.generate(TEXT).finish()
    assert ran.facts["text"] == done.text
    assert ran.out.strip() == done.text.strip()
    assert model(TEXT, last=True).argmax() == done.response.token_ids[0]


def beams(ran, model, _):
    done = model.generate(TEXT, num_beams=3).finish()
    assert ran.facts["text"] == done.text != model.generate(TEXT).finish().text
    assert ran.out.strip() == done.text.strip()


def sampled(ran, model, _):
    lines = [json.loads(line) for line in Path("ledger.jsonl").read_text("utf-8").splitlines()]
    assert [line["token_id"] for line in lines] == ran.facts["response"]["token_ids"]
    assert len(lines[0]["raw_logits"]) == 2048
    assert np.array(lines[0]["raw_logits"]) == pytest.approx(model(TEXT, last=True), rel=1e-4, abs=1e-4)


def saved_generation(ran, model, _):
    trace = gpt2np.Trace.open("out.safetensors", model)
    done = model.generate(TEXT, keep="*").finish()
    assert trace.token_ids == done.token_ids[:-1]
    assert statistics.steps(trace) == statistics.steps(done)
    n = done.n_prompt  # HF's attention of step 1, whose only query is the first chosen token
    theirs = done.attentions[1][3][0, :, 0]
    np.testing.assert_allclose(trace["h.3.attn.pattern"][:, n, : n + 1], theirs, atol=1e-5)
    np.testing.assert_allclose(trace["h.1.resid_post"][:n], done.hidden_states[0][2][0], rtol=1e-4, atol=1e-4)
    assert ran.out.strip() == done.text.strip()


def all_statistics(run, ran):
    """What `gpt2np stats` says of a run, whatever the options."""
    for key, function in (
        ("attention", statistics.attention_statistics),
        ("entropy", statistics.entropy),
        ("distance", statistics.distance),
        ("first_token", statistics.first_token),
        ("saturation", statistics.saturation),
        ("hidden_states", statistics.hidden_state_statistics),
        ("comparison_by_step", statistics.comparison_by_step),
    ):
        same(ran.facts[key], function(run).array)
    comparison = statistics.layer_comparison(run)
    same(ran.facts["comparison"], comparison.array)
    assert ran.facts["comparison"]["verdict"] == statistics.verdict(comparison.array[-1])
    assert ran.facts["generated_tokens"] == statistics.n_generated(run)
    assert "Total parameters: 2,222,208" in baseline_notebook.architecture(run)
    ran.has(
        baseline_notebook.generation(run).splitlines()[0],
        baseline_notebook.shapes(run),
        baseline_notebook.attention_values(run),
    )
    hidden = statistics.pick(statistics.hidden_state_statistics(run), "step", 0)
    ran.has(*(number(x) for x in hidden.array[0].tolist()), baseline_notebook.summary(run))
    ran.has(comparison.title, *(number(x) for x in comparison.array.tolist()))
    ran.has("Number of layers: 4", "Hidden size: 192", "Total parameters: 2,222,208")
    summary = statistics.attention_summary(run)
    ran.has(*(number(x) for x in statistics.pick(summary, "step", 0).array[0].tolist()))


def of_a_run(ran, model, trace):
    all_statistics(trace, ran)


def of_a_picture(ran, model, trace):
    all_statistics(trace, ran)
    assert Path("p.png").read_bytes()[:4] == b"\x89PNG"


def of_a_generation(ran, model, _):
    run = model.generate(TEXT, max_new_tokens=40, keep="*").finish()
    all_statistics(run, ran)
    assert ran.facts["generated_tokens"] == 40
    ran.has("by step: attention", "New tokens: 40")


CHECKS = {
    "tokenize TEXT": tokens,
    "tokenize TEXT --merges": merged,
    "score FILE --without-positions": scored(losses.loss_without_positions, "loss_without_positions"),
    "score FILE --hold-norms": scored(losses.loss_with_held_norms, "loss_with_held_norms"),
    "circuits --interference": of_directions,
    "circuits --overlap k": overlap,
    "trace TEXT --against OTHER": of_two_prompts,
    "stats TEXT --max-new-tokens 40 --notebook": the_notebook,
    "info": info,
    "circuits --parameters": parameters,
    "circuits --parameters --model gpt2": parameters,
    "heads TEXT": sum_of_writes,
    "heads TEXT --token T --against T2": direct_path,
    "circuits TEXT": of_a_text,
    "circuits --composition k": composition,
    "patch CLEAN CORRUPT --answer A --wrong B": patched(patching.sweep),
    "patch CLEAN CORRUPT --answer A --wrong B --direct": patched(patching.sweep, direct=True),
    "patch CLEAN CORRUPT --answer A --wrong B --to h.3.attn.q": patched(
        patching.path_sweep, receiver="h.3.attn.q"
    ),
    "circuits --norms": all_norms,
    "circuits --norms h.1.ln_2": one_norm,
    "circuits --head 1.2 --weights": own_matrices,
    "circuits --head 1.2": one_head,
    "circuits TEXT --head 1.2": one_head_of_a_text,
    "circuits": all_heads,
    "lens TEXT": logit_lens,
    "lens TEXT --heads": attention_lens,
    "circuits --neuron 1.5": one_neuron,
    "circuits TEXT --neuron 1.5": one_neuron_of_a_text,
    "generate TEXT": greedy,
    "generate TEXT --num-beams 3": beams,
    "generate TEXT --top-k 50 --top-p 0.95 --temperature 0.8 --ledger FILE": sampled,
    "generate TEXT --out FILE": saved_generation,
    "stats TEXT": of_a_run,
    "stats TEXT --step 0": of_a_run,
    "stats TEXT --every 3": of_a_run,
    "stats TEXT --pos -1": of_a_run,
    "stats TEXT --threshold 0.9": of_a_run,
    "stats TEXT --png FILE --draw entropy": of_a_picture,
    "stats TEXT --max-new-tokens 40": of_a_generation,
    "stats --trace FILE": of_a_run,
}


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


def pictures_marked(commands):
    mark = pytest.mark.needs("matplotlib")
    return [pytest.param(command, marks=mark) if "--png" in command else command for command in commands]


@pytest.mark.every(3)
@pytest.mark.parametrize("command", pictures_marked(COMMANDS))
def test_commands(command, capsys, monkeypatch, tmp_path, tiny, trace):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    check = shows if "--show" in command else CHECKS[command.removeprefix("gpt2np ")]
    check(Ran(command, capsys, tiny), tiny, trace)


def test_no_check_is_left_over():
    assert set(CHECKS) <= {command.removeprefix("gpt2np ") for command in COMMANDS}
