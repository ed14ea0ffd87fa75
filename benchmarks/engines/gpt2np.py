"""gpt2np as its users call it."""

import json
import os
import time
from pathlib import Path

import gpt2np


class Gpt2np:
    def __init__(self, folder, threads):
        self.folder = folder  # the environment has told BLAS how many threads to use
        self.model = gpt2np.load(folder)
        self.first_token = self.held = None

    def trace(self, prompts, keep="*"):
        return self.model.trace(prompts[0] if len(prompts) == 1 else prompts, keep=keep)

    def logits(self, prompts):
        return self.model(prompts[0])

    def last(self, prompts):
        return self.model(prompts[0], last=True)

    def decode(self, prompts, new, traced=False):
        generation = self.model.generate(
            prompts[0], max_new_tokens=new, eos=None, keep="*" if traced else None
        )
        for _ in generation:
            self.first_token = self.first_token or time.perf_counter()
        done = generation.finish()
        assert len(done.token_ids) == len(prompts[0]) + new
        return done

    def load(self):
        return gpt2np.load(self.folder)

    def hold(self, prompts, path):
        self.held = self.held or self.trace(prompts)

    def hold_file(self, prompts, path):
        if not os.path.exists(path):
            self.hold(prompts, path)
            self.save(prompts, path)

    def save(self, prompts, path):
        self.held.save(path)

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
