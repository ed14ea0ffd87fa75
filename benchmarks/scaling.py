"""What a trace costs against tokens, layers and width: measured, fitted, and counted.

Each call follows one like it, outside the clock, so that memory has been written before.
Tokens: at small's shape, 1 to 1,024 of them. Layers: small's width with 1 to 12. Width: one and two layers
of each released width up to XL's; the difference is the cost of a layer, and the size itself is extrapolated
from it: t(L) = t(1) + (L - 1) (t(2) - t(1)).
"""

import dataclasses
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import counts, fits, limits, results
from benchmarks.machine import description
from benchmarks.random_gpt2 import make
from benchmarks.suite import Options, note, start_results
from benchmarks.turns import Engine, engines, in_turn
from benchmarks.works import SHAPES, prompts
from gpt2np.architectures.gpt2.config import RELEASED, Config

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512, 768, 1024)
LAYERS = (1, 2, 4, 8, 12)
FITTED_FROM = 64  # tokens: fewer wait for the weights, and are multiplied at lower rates
AT = 256  # tokens of the series in layers and width
METHODS = ("trace", "last")


def widths(shape: str) -> dict[str, Config]:
    """The sizes whose width is measured."""
    if shape == "gpt2":
        return dict(RELEASED)
    return {name: SHAPES[shape][name] for name in ("small", "medium")}


def shapes(shape: str) -> dict[tuple[int, int], Config]:
    """Every (n_embd, n_layer) that runs."""
    small = SHAPES[shape]["small"]
    found = {(small.n_embd, n): dataclasses.replace(small, n_layer=n) for n in LAYERS if n <= small.n_layer}
    for config in widths(shape).values():
        for n in (1, 2):
            found[config.n_embd, n] = dataclasses.replace(config, n_layer=n)
    return found


def run(options: Options) -> dict:
    """Measure the three series; they stand under `scaling` in the results."""
    found = start_results(options)
    all_shapes = shapes(options.shape)
    small = SHAPES[options.shape]["small"]
    longest = (small.n_embd, max(n for width, n in all_shapes if width == small.n_embd))
    series: dict[str, list] = {}
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpt2np-benchmarks-")))
        started: dict[tuple[int, int], Engine] = {}
        for key, config in all_shapes.items():
            note(f"n_embd {key[0]}, {key[1]} layers: random weights")
            folder = make(temporary / "x".join(map(str, key)), config)
            started[key] = stack.enter_context(engines(["gpt2np"], folder, options.threads))[0]["gpt2np"]
        machine = stack.enter_context(engines(["machine"], temporary, options.threads))[0]["machine"]
        rates = [machine_rates(machine, all_shapes, longest, options.shape)]
        jobs = {}
        for key, config in all_shapes.items():
            for n in TOKENS if key == longest else (AT,):
                for method in METHODS:
                    arguments = {"prompts": prompts((n,), config.vocab_size)}
                    job = {"work": method, "arguments": arguments, "calls": 3 if n < 64 else 1}
                    job["before"] = method
                    jobs[f"{key[0]}x{key[1]} {method} {n}"] = (started[key], job)
        note(f"{len(jobs)} pieces of work, {options.rounds} rounds and one that does not count")
        for name, answers in in_turn(jobs, options.rounds).items():
            series[name] = [answer["seconds"] for answer in answers]
        rates.append(machine_rates(machine, all_shapes, longest, options.shape))
    found["scaling"] = {
        "machine": description(options.threads),
        "longest": list(longest),
        "limits": rates,
        "seconds": series,
    }
    results.write(options.out / results.NAME, found)
    return found


def machine_rates(
    machine: Engine, all_shapes: dict[tuple[int, int], Config], longest: tuple[int, int], shape: str
) -> limits.Limits:
    """GEMM rates for every width and number of rows of the series, and the memory's."""
    samples = []
    for width, config in {width: config for (width, _), config in all_shapes.items()}.items():
        rows = [n for n in (TOKENS if width == longest[0] else (AT,)) if n > 1]
        samples.append(machine.run(limits.job(config, 12, rows, shape))["value"])
    return limits.pooled(samples)


def summary(scaling: dict, shape: str) -> dict:
    """Medians, fits, extrapolations and theoretical limits of the series, by method."""
    return {method: _one_method(scaling, shape, method) for method in METHODS}


def _one_method(scaling: dict, shape: str, method: str) -> dict:
    rates = limits.pooled(scaling["limits"])
    all_shapes, longest = shapes(shape), tuple(scaling["longest"])

    def seconds(key: tuple[int, int], n: int) -> float:
        return statistics.median(scaling["seconds"][f"{key[0]}x{key[1]} {method} {n}"])

    def least(config: Config, n: int) -> float:
        return limits.least_seconds(counts.passes(config, method, [n], {}), config.n_embd, rates)[0]

    measured = [seconds(longest, n) for n in TOKENS]
    pairs = zip(TOKENS, measured, strict=True)
    layers = [n for width, n in sorted(all_shapes) if width == longest[0]]
    by_layer = [seconds((longest[0], n), AT) for n in layers]
    sizes = {}
    for name, config in widths(shape).items():
        one, two = (seconds((config.n_embd, n), AT) for n in (1, 2))
        layer = max(0.0, two - one)
        sizes[name] = {
            "n_embd": config.n_embd,
            "n_layer": config.n_layer,
            "layer": layer,
            "extrapolated": one + (config.n_layer - 1) * layer,
            "limit": least(config, AT),
            "flops": counts.passes(config, method, [AT], {})[0].flops,
        }
    return {
        "tokens": list(TOKENS),
        "seconds": measured,
        "limit": [least(all_shapes[longest], n) for n in TOKENS],
        "fit": fits.in_tokens(*zip(*(pair for pair in pairs if pair[0] >= FITTED_FROM), strict=True)),
        "theory": theory(all_shapes[longest], method, rates),
        "layers": layers,
        "layer_seconds": by_layer,
        "layer_limit": [least(all_shapes[longest[0], n], AT) for n in layers],
        "layer_fit": fits.in_layers(layers, by_layer),
        "sizes": sizes,
    }


def theory(config: Config, method: str, rates: limits.Limits) -> dict[str, float]:
    """The counted parts in seconds: reading the weights; FLOPs a token and a token squared at GEMM's rate."""
    one = counts.passes(config, method, [1], {})[0]
    rate = rates["gemm"][str(config.n_embd)][str(TOKENS[-1])]
    linear = one.block_flops / rate["block"]
    linear += one.unembed_flops / rate["unembed"] if method == "trace" else 0.0
    return {
        "constant": one.read_bytes / rates["memory"]["read"],
        "linear": linear + one.attention_flops / 2 / rate["block"],
        "quadratic": one.attention_flops / 2 / rate["block"],
    }
