"""gpt2np as its users call it."""

import functools
import json
import os
import time
from pathlib import Path

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
