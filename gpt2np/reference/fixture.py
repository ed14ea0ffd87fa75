"""A GPT-2 small enough for a repository: weights, a prompt, every step, and how exact each must be.

For those who write GPT-2 in another language and cannot carry 500 MB. Everything in it is random and nothing
is trivial: no bias is 0 and no norm 1, attention is visibly uneven, the residual stream is so small that a
misplaced epsilon shows, and no two axes have the same size. The numbers are the same in every file: the run
in float64, rounded to float32 once, and printed so that reading them gives that float32 again.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.architectures.gpt2.weights import parameter_shapes
from gpt2np.checkpoints.checkpoint import Checkpoint
from gpt2np.checkpoints.weights import Weights
from gpt2np.errors import InputError
from gpt2np.export.decimal_text import rows_as_text
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.outputs import whole_binary_file, whole_folder
from gpt2np.reference.noise_bands import expect
from gpt2np.tensorfile import save_tensors
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.trace import Trace
from gpt2np.tracing.trace_metadata import file_metadata, run_metadata

SCHEMA = "gpt2np.fixture/1"
FACTS = "fixture.json"
FILES = (
    *("model.safetensors", "trace.safetensors", "bands.safetensors", "config.json", "prompt.txt"),
    *(FACTS, "fixture.h", "fixture_trace.h", "README.txt"),
)
N_TOKENS = 7
CONFIG = Config(n_layer=2, n_head=3, n_embd=12, n_positions=16, vocab_size=40, eos_token_id=39)

# Mean and standard deviation of the parameters whose name ends so; the first that fits.
_SPREAD = {
    "wte.weight": (0.0, 0.08),
    "wpe.weight": (0.0, 0.04),
    "ln_1.weight": (1.0, 0.3),
    "ln_2.weight": (1.0, 0.3),
    "ln_f.weight": (1.0, 0.3),
    "c_attn.weight": (0.0, 0.45),
    "c_fc.weight": (0.0, 0.45),
    "attn.c_proj.weight": (0.0, 0.03),
    "mlp.c_proj.weight": (0.0, 0.012),
    "c_proj.bias": (0.0, 0.03),
    "bias": (0.0, 0.3),
}
_DECIMALS = 5  # of every weight: short to print, and no float16

README = """\
A tiny random GPT-2, made by `gpt2np fixture --seed {seed}`, to write your own against.

config.json, model.safetensors   the model, as Hugging Face and gpt2np.load read it
prompt.txt                       the token ids of the prompt
trace.safetensors                every step of the run of that prompt, under its name
bands.safetensors                for every step the largest error that float32 arithmetic explains
fixture.json                     all of that: config, token_ids, weights, trace, bands (null: -inf)
fixture.h, fixture_trace.h       all of that for C99 and C++: config, prompt, weights; trace and bands

{sizes}
Matrices are [n_in, n_out] (y = x W + b), arrays are in C order. Attention scores are -inf where the key comes
after the query. The trace was computed in float64 and rounded to float32; float32 numbers are printed so that
reading them gives the same float32.

How to use it
1. Read config, weights and prompt; run your forward pass in float32.
2. Compare step by step, in the order of the trace: at every element |yours - trace| must be at most the
   step's band. A band in fixture.json and fixture_trace.h is one number, the largest of the step;
   bands.safetensors has one for every position. The first step outside its band is the one to look at.
3. Write your steps to a file (.safetensors, .npz, or bare float32 in a .bin, with --shapes and a text file of
   lines `h.0.ln_1 float32 7 12`), and let gpt2np say which step is wrong and which mistake explains it:

   gpt2np compare mine.safetensors --model . --tokens {ids}    (in this folder)
"""


@dataclass(frozen=True)
class Fixture:
    """A float32 model, a prompt, its trace, and the band of each site of it: [..., 1] against [..., axis]."""

    seed: int
    model: Model
    trace: Trace
    bands: dict[str, Array]

    def __repr__(self) -> str:
        return f"<Fixture of seed {self.seed}: {self.model!r}, {self.trace!r}>"


def make_fixture(seed: int = 0) -> Fixture:
    """Make the fixture of a seed; the same seed gives the same fixture.

    Raises:
        InputError: the seed is no whole number from 0.

    Example:
        >>> make_fixture().trace["h.0.attn.pattern"].shape
        (3, 7, 7)
    """
    if type(seed) is not int or seed < 0:
        raise InputError(f"a seed is a whole number from 0, not {seed!r}")
    rng = np.random.default_rng(seed)
    weights = {name: _weight(name, shape, rng) for name, shape in parameter_shapes(CONFIG).items()}
    ids = rng.choice(CONFIG.vocab_size - 1, N_TOKENS, replace=False)  # 39 ends a text
    ids[-2] = ids[1]  # a token that comes twice: its position makes the difference
    name = f"fixture of seed {seed}"
    model = Model(Checkpoint(name, Path(), CONFIG, Weights(weights), (), "", None, ()))
    expected = expect(model, ids.tolist())
    truth = expected.truth
    plan = Plan(CONFIG, N_TOKENS, Keep.parse("*"), "float32")
    metadata = run_metadata(plan, truth.token_ids, None, model=name, seed=seed, computed_in="float64")
    arrays = {name: truth[name].astype(np.float32) for name in truth.names()}
    bands = {name: _rounded_up(np.asarray(expected.bands[name])) for name in truth.names()}
    return Fixture(seed, model, Trace(plan, arrays, truth.token_ids, metadata, model), bands)


def write_fixture(folder: str | Path, seed: int = 0) -> dict[str, int]:
    """Write a fixture as a folder of files; returns the bytes of each file by its name.

    The folder is made if need be, with its parents. The files appear together, or not at all; those of an
    older fixture are replaced.

    Raises:
        InputError: the seed is no whole number from 0, or the folder cannot be written.
    """
    fixture, out = make_fixture(seed), Path(folder)
    trace, bands = fixture.trace, fixture.bands
    tensors: dict[str, tuple[Mapping[str, Array], dict[str, str]]] = {
        "model.safetensors": (fixture.model.weights, {"format": "pt"}),
        "trace.safetensors": ({name: trace[name] for name in trace.names()}, file_metadata(trace.metadata)),
        "bands.safetensors": (bands, {}),
    }
    texts = {
        "config.json": json.dumps(_config(), indent=1) + "\n",
        "prompt.txt": ",".join(map(str, trace.token_ids)) + "\n",
        FACTS: _json(fixture),
        "fixture.h": header(fixture),
        "fixture_trace.h": trace_header(fixture),
        "README.txt": _readme(fixture),
    }
    with whole_folder(out, FACTS) as target:
        for name, (arrays, metadata) in tensors.items():
            save_tensors(target / name, arrays, metadata)
        for name, text in texts.items():
            with whole_binary_file(target / name) as file:
                file.write(text.encode())
    return {name: (out / name).stat().st_size for name in FILES}


def band_of(fixture: Fixture, name: str) -> float:
    """Return one number for a whole site: its largest allowed error."""
    return float(fixture.bands[name].max())


def _weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    mean, spread = next(value for end, value in _SPREAD.items() if name.endswith(end))
    weight = rng.normal(mean, spread, shape).round(_DECIMALS)
    return np.where(weight == mean, mean + 10.0**-_DECIMALS, weight).astype(np.float32)  # nothing is 0 or 1


def _rounded_up(bands: Array) -> Array:
    """The next number of two digits: the others say nothing."""
    exponent = np.floor(np.log10(np.maximum(bands, 1e-30))) - 1
    return np.asarray(np.ceil(bands / 10**exponent) * 10**exponent, np.float32)


def _config() -> dict[str, Any]:
    """`config.json`, as Hugging Face reads it too."""
    kind = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "bos_token_id": CONFIG.eos_token_id}
    return kind | {
        name: value for name, value in CONFIG.to_dict().items() if name != "reorder_and_upcast_attn"
    }


def _readme(fixture: Fixture) -> str:
    plan, sizes = fixture.trace.plan, io.StringIO()
    for axis, size in {"pos, query, key": N_TOKENS, "layers": CONFIG.n_layer, **CONFIG.dims}.items():
        sizes.write(f"{size:>5}  {axis}\n")
    steps = "".join(f"  {name:<18}  {plan.by_name[name].site.axes}\n" for name in fixture.trace.names())
    ids = ",".join(map(str, fixture.trace.token_ids))
    text = README.format(seed=fixture.seed, sizes=sizes.getvalue(), ids=ids)
    return f"{text}\nThe steps, in order, with their axes\n{steps}"


def _json(fixture: Fixture) -> str:
    """Everything, as flat lists: an array a line."""

    def arrays(named: Mapping[str, Array]) -> str:
        rows = []
        for name, array in named.items():
            data = rows_as_text(array.reshape(1, -1))[0].replace("-inf", "null")
            rows.append(f'"{name}": {{"shape": {json.dumps(array.shape)}, "data": [{data}]}}')
        return "{\n" + ",\n".join(rows) + "\n}"

    trace = fixture.trace
    bands = {name: band_of(fixture, name) for name in trace.names()}
    parts = {
        "schema": json.dumps(SCHEMA),
        "seed": json.dumps(fixture.seed),
        "config": json.dumps(_config()),
        "token_ids": json.dumps(trace.token_ids),
        "weights": arrays(fixture.model.weights),
        "trace": arrays({name: trace[name] for name in trace.names()}),
        "bands": json.dumps({name: float(f"{band:.2g}") for name, band in bands.items()}),
    }
    return "{\n" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "\n}\n"


# -- C ----------------------------------------------------------------------------------------------


def header(fixture: Fixture) -> str:
    """Return `fixture.h`: the config as macros, the prompt, and an array for every parameter."""
    c = CONFIG
    macros = {
        "N_LAYER": c.n_layer,
        "N_HEAD": c.n_head,
        "D_HEAD": c.d_head,
        "N_EMBD": c.n_embd,
        "D_MLP": c.d_mlp,
        "N_POSITIONS": c.n_positions,
        "VOCAB_SIZE": c.vocab_size,
        "N_TOKENS": N_TOKENS,
        "LAYER_NORM_EPSILON": f"{c.layer_norm_epsilon}f",
    }
    lines = [*_opening(fixture, "GPT2_FIXTURE_H", "config, prompt and weights; matrices are [n_in, n_out]")]
    lines += [f"#define GPT2_{name} {value}" for name, value in macros.items()]
    ids = ", ".join(map(str, fixture.trace.token_ids))
    lines += ["", f"static const int gpt2_token_ids[{N_TOKENS}] = {{{ids}}};"]
    for name, array in fixture.model.weights.items():
        lines += _array(f"gpt2_{_identifier(name)}", array, str(list(array.shape)))
    return "\n".join([*lines, "", "#endif", ""])


def trace_header(fixture: Fixture) -> str:
    """Return `fixture_trace.h`: an array and a band for every step, and a table of them to loop over."""
    trace = fixture.trace
    lines = [
        *_opening(fixture, "GPT2_FIXTURE_TRACE_H", "every step of the run, and its largest allowed error")
    ]
    lines += ["#include <math.h>"]
    rows = []
    for name in trace.names():
        array, identifier = trace[name], _identifier(name)
        lines += _array(f"trace_{identifier}", array, f"{trace.dims[name]}: {list(array.shape)}")
        lines += [f"static const float band_{identifier} = {band_of(fixture, name):.2g}f;"]
        rows.append(f'    {{"{name}", trace_{identifier}, {array.size}, {band_of(fixture, name):.2g}f}},')
    lines += [
        "",
        "/* The same as a table, in the order of the run. */",
        "struct gpt2_step {",
        "    const char *name;",
        "    const float *values;",
        "    int size;",
        "    float band;",
        "};",
        f"#define GPT2_N_STEPS {len(rows)}",
        "static const struct gpt2_step gpt2_steps[GPT2_N_STEPS] = {",
        *rows,
        "};",
    ]
    return "\n".join([*lines, "", "#endif", ""])


def _opening(fixture: Fixture, guard: str, what: str) -> Iterator[str]:
    yield f"/* A tiny random GPT-2: {what}."
    yield f"   Written by `gpt2np fixture --seed {fixture.seed}`; README.txt says how to use it. */"
    yield from (f"#ifndef {guard}", f"#define {guard}", "")


def _array(identifier: str, array: Array, comment: str) -> Iterator[str]:
    """A C array, one row of the last axis a line."""
    yield from ("", f"/* {comment} */", f"static const float {identifier}[{array.size}] = {{")
    for row in rows_as_text(array.reshape(-1, array.shape[-1])):
        yield " " + ",".join(_literal(number) for number in row.split(",")) + ","
    yield "};"


def _literal(number: str) -> str:
    return "-INFINITY" if number == "-inf" else number + "f"


def _identifier(name: str) -> str:
    return name.replace(".", "_")
