"""gpt2np as its users call it."""

import functools
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np

import gpt2np

PRODUCTS = ("qkv", "out", "pre", "logits")  # the last part of the names of the steps that multiply by weights


class Gpt2np:
    def __init__(self, folder, threads):
        self.folder = folder  # the environment has told BLAS how many threads to use
        self.model = gpt2np.load(folder)
        self.first_token = self.held = None

    def trace(self, prompts, keep="*"):
        return self.model.trace(_one_or_all(prompts), keep=keep)

    def traces(self, prompts, times):
        for _ in range(times):
            self.model.trace(prompts[0])

    def steps(self, prompts):
        """Seconds of a full trace: products by weights, other steps, and all but the products."""
        start = time.perf_counter()
        timings = self.model.trace(prompts[0], timings=True).timings
        whole = time.perf_counter() - start
        products = sum(s for name, s in timings.items() if name.split(".")[-1] in PRODUCTS)
        return {"products": products, "others": sum(timings.values()) - products, "rest": whole - products}

    def capture(self, prompts, out, batch=1, last_layer=False):
        """As many workers as threads, which start with the first capture and stay."""
        shutil.rmtree(out, ignore_errors=True)
        keep = self.last_residual if last_layer else "resid_post"
        self.model.capture(prompts, out, keep=keep, executor=self.workers)

    def captured(self, prompts, out, batch=1, last_layer=False):
        """Some numbers of the last layer."""
        from gpt2np.capture import open_capture

        return open_capture(out)[self.last_residual][::37][:, :8].astype(float).tolist()

    @property
    def last_residual(self):
        return f"h.{self.model.config.n_layer - 1}.resid_post"

    def capture_nothing(self, prompts, out, batch=1):
        """The passes of that capture, by the same workers, with nothing kept."""
        self._shards(run_passes, prompts)

    def capture_products(self, prompts, out, batch=1):
        """Nothing but the products of these passes."""
        self._shards(run_products, prompts)

    def _shards(self, function, prompts):
        from gpt2np.capture.capture_plan import plan_capture
        from gpt2np.capture.workers import results

        plan = plan_capture(self.model, prompts)
        tasks = [(shard.file, (self.folder, plan.prompts_of(shard))) for shard in plan.shards]
        for _ in results(self.workers, function, tasks):
            pass

    @functools.cached_property
    def workers(self):
        from gpt2np.capture.workers import Workers

        return Workers(int(os.environ["OPENBLAS_NUM_THREADS"]))

    def logits(self, prompts):
        return self.model(prompts[0])

    def last(self, prompts):
        return self.model(prompts[0], last=True)

    def decode(self, prompts, new, traced=False):
        return self._decode(self.model, prompts, new, keep="*" if traced else None)

    @functools.cached_property
    def on_one_thread(self):
        return gpt2np.load(self.folder, threads=1)

    def decode_alone(self, prompts, new):
        return self._decode(self.on_one_thread, prompts, new)

    def beams(self, prompts, new, beams):
        done = self._decode(self.model, prompts, new, num_beams=beams)
        self.first_token = None  # all tokens come at the end
        return done

    def _decode(self, model, prompts, new, **options):
        generation = model.generate(_one_or_all(prompts), max_new_tokens=new, eos=None, **options)
        for _ in generation:
            self.first_token = self.first_token or time.perf_counter()
        done = generation.finish()
        for prompt, one in zip(prompts, [done] if len(prompts) == 1 else done, strict=True):
            assert len(one.token_ids) == len(prompt) + new
        return done

    def load(self):
        return gpt2np.load(self.folder)

    def hold(self, prompts, path, sync=True):
        self.held = self.held or self.trace(prompts)

    def hold_file(self, prompts, path):
        if not os.path.exists(path):
            self.hold(prompts, path)
            self.save(prompts, path)

    def save(self, prompts, path, sync=True):
        self.held.save(path, **({} if sync else {"sync": False}))

    def open(self, prompts, path):
        trace = gpt2np.Trace.open(path)
        return float(trace["h.1.attn.pattern"].sum())

    def release(self):
        self.held = None

    def check(self, prompts):
        trace = self.trace(prompts)
        return {"last": trace["logits"][-1, :16].tolist(), "kept_bytes": trace.nbytes}

    def sweep(self, clean, corrupt, answer, wrong, out):
        from gpt2np.analysis.patching import logit_difference, sweep

        found = sweep(clean, corrupt, logit_difference(answer, wrong), "h.*.attn.z", model=self.model)
        Path(out).write_text(json.dumps(found.array.tolist()))


def _one_or_all(prompts):
    return prompts[0] if len(prompts) == 1 else prompts


_on_one_thread = functools.cache(functools.partial(gpt2np.load, threads=1))


def run_passes(folder, prompts):
    """Run the packed passes of a shard, without logits, in a worker."""
    from gpt2np.tracing.packed_pass import Pass, Sequence
    from gpt2np.tracing.scratch import Scratch

    model, scratch, none = _on_one_thread(folder), Scratch(), np.zeros(0, np.int64)
    stop = model.config.n_layer
    for pack in _packs(prompts):
        sequences = [Sequence(prompts[i]) for i in pack.prompts]
        model.run_pass(
            Pass(model.config, model.dtype, sequences, scratch, logits_of=none, stop_at_layer=stop)
        )


def run_products(folder, prompts):
    """Multiply as many rows as each of these passes has by the weights of all blocks."""
    model = _on_one_thread(folder)
    for pack in _packs(prompts):
        n_rows = sum(len(prompts[i]) for i in pack.prompts)
        for block in model.parameters.h:
            for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                n_in, n_out = linear.weight.shape
                np.matmul(_rows(n_in, 0)[:n_rows], linear.weight, out=_rows(n_out, 1)[:n_rows])


def _packs(prompts):
    from gpt2np.capture.shard_plan import PACK_TOKENS, schedule

    return schedule(prompts, [range(len(ids)) for ids in prompts], PACK_TOKENS, True).packs


@functools.cache
def _rows(n_columns, seed):
    """As many as any pass has."""
    return np.random.default_rng(seed).standard_normal((1024, n_columns), np.float32)
