"""TransformerLens 4: the bridge around HF's model, with the weights as they are, and `run_with_cache`."""

import os
import time

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import StoppingCriteria
from transformers.utils import logging

from benchmarks.engines import torch_capture, wait_for_disk

logging.disable_progress_bar()


class Clock(StoppingCriteria):
    """Notes when the first new token is there; never stops."""

    def __init__(self):
        self.first = None

    def __call__(self, input_ids, scores, **kwargs):
        self.first = self.first or time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)


class TransformerLens:
    def __init__(self, folder, threads):
        torch.set_num_threads(threads)
        self.folder = folder
        self.model = self.load()
        self.first_token = self.held = None

    def load(self):
        return TransformerBridge.boot_transformers(self.folder)

    def trace(self, prompts, keep="*"):
        wanted = {
            "*": None,
            "resid_*": lambda name: name.endswith(("hook_resid_mid", "hook_resid_post")),
            "attn.pattern": lambda name: name.endswith("hook_pattern"),
        }[keep]
        with torch.no_grad():
            return self.model.run_with_cache(torch.tensor(prompts), names_filter=wanted)

    def logits(self, prompts):
        with torch.no_grad():
            return self.model(torch.tensor(prompts))

    def decode(self, prompts, new, traced=False):
        clock = Clock()
        with torch.no_grad():
            out = self.model.generate(
                torch.tensor(prompts),
                max_new_tokens=new,
                stop_at_eos=False,
                do_sample=False,
                verbose=False,
                return_type="tokens",
                return_cache=traced,
                stopping_criteria=clock,
            )
        self.first_token = clock.first
        ids = out[0] if traced else out
        assert ids.shape == (len(prompts), len(prompts[0]) + new), ids.shape
        return out

    def capture(self, prompts, out, batch=1, in_order=False):
        layers = self.model.cfg.n_layers
        names = [f"blocks.{layer}.hook_resid_post" for layer in range(layers)]

        def residuals(ids):
            _, cache = self.model.run_with_cache(ids, names_filter=names, return_type=None)
            return [cache[name] for name in names]

        torch_capture.capture(residuals, prompts, out, batch, in_order)

    def captured(self, prompts, out, batch=1, in_order=False):
        return torch_capture.captured(out)

    def hold(self, prompts, path, sync=True):
        self.held = self.held or dict(self.trace(prompts)[1])

    def hold_file(self, prompts, path):
        if not os.path.exists(path):
            self.hold(prompts, path)
            self.save(prompts, path)

    def save(self, prompts, path, sync=True):
        torch.save(self.held, path)
        if sync:
            wait_for_disk(path)

    def open(self, prompts, path):
        return float(torch.load(path, mmap=True, weights_only=True)["blocks.1.attn.hook_pattern"].sum())

    def release(self):
        self.held = None

    def check(self, prompts):
        logits, cache = self.trace(prompts)
        storages = {x.data_ptr(): x.numel() * x.element_size() for x in cache.values()}
        return {"last": logits[0, -1, :16].tolist(), "kept_bytes": sum(storages.values())}
