"""HF transformers: eager with hooks that keep every site, and sdpa as it comes.

Hooks hold on to what they are shown and copy nothing. Scores and pattern have no module of their own: they
are what goes into softmax and what comes out of it.
"""

import json
import os
import time
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from benchmarks.engines import torch_capture, wait_for_disk

logging.disable_progress_bar()
SOFTMAX = torch.nn.functional.softmax


class Clock(BaseStreamer):
    """Notes when the first new token is there; the first call brings the prompt."""

    def __init__(self):
        self.calls, self.first = 0, None

    def put(self, value):
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter()

    def end(self):
        pass


class HF:
    attention = ""

    def __init__(self, folder, threads):
        torch.set_num_threads(threads)
        self.folder = folder
        self.model = self.load()
        self.first_token = self.held = self.hooked = None
        self.handles, self.kept = [], []

    def load(self):
        return GPT2LMHeadModel.from_pretrained(self.folder, attn_implementation=self.attention).eval()

    def hook(self, keep):
        """Hooks for these sites, unless they are already there; empties what was kept."""
        self.kept = []
        if keep == self.hooked:
            return
        for handle in self.handles:
            handle.remove()
        torch.nn.functional.softmax = self.softmax if keep == "*" else SOFTMAX
        self.hooked, self.handles = keep, []
        if keep is None:
            return
        t = self.model.transformer
        outputs, inputs = [*t.h], [block.ln_2 for block in t.h]  # resid_post, resid_mid
        if keep == "*":
            outputs += [t.wte, t.wpe, t.drop, t.ln_f, self.model.lm_head]
            for b in t.h:
                outputs += [b.ln_1, b.attn.c_attn, b.attn.c_proj, b.ln_2, b.mlp.c_fc, b.mlp.act, b.mlp.c_proj]
                inputs.append(b.attn.c_proj)  # z
        self.handles += [m.register_forward_hook(lambda _, i, out: self.kept.append(out)) for m in outputs]
        self.handles += [m.register_forward_hook(lambda _, i, out: self.kept.append(i[0])) for m in inputs]

    def softmax(self, scores, *args, **kwargs):
        pattern = SOFTMAX(scores, *args, **kwargs)
        self.kept += [scores, pattern]
        return pattern

    def run(self, prompts, **options):
        with torch.no_grad():
            return self.model(torch.tensor(prompts), use_cache=False, **options)

    def trace(self, prompts, keep="*"):
        if keep == "attn.pattern":
            self.hook(None)
            return self.run(prompts, output_attentions=True, logits_to_keep=1).attentions
        self.hook(keep)
        self.run(prompts, logits_to_keep=0 if keep == "*" else 1)
        return self.kept

    def logits(self, prompts):
        self.hook(None)
        return self.run(prompts).logits

    def last(self, prompts):
        self.hook(None)
        return self.run(prompts, logits_to_keep=1).logits

    def decode(self, prompts, new, traced=False):
        self.hook("*" if traced else None)
        clock = Clock()
        out = self._generate(prompts, new, streamer=clock)
        self.first_token = clock.first
        return out, self.kept

    def beams(self, prompts, new, beams):
        self.hook(None)
        return self._generate(prompts, new, num_beams=beams)

    def _generate(self, prompts, new, **options):
        """The most probable tokens; prompts of several lengths are padded on the left."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.no_grad():
            out = self.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                min_new_tokens=None,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                **options,
            )
        assert out.shape == (len(prompts), longest + new)
        return out

    def capture(self, prompts, out, batch=1, in_order=False):
        """The outputs of the blocks by hooks; the model without its unembedding."""
        self.hook(None)
        blocks, found = self.model.transformer.h, []
        hooks = [b.register_forward_hook(lambda _, i, out: found.append(out)) for b in blocks]

        def residuals(ids):
            found.clear()
            self.model.transformer(ids, use_cache=False)
            return found

        try:
            torch_capture.capture(residuals, prompts, out, batch, in_order)
        finally:
            for hook in hooks:
                hook.remove()

    def captured(self, prompts, out, batch=1, in_order=False):
        return torch_capture.captured(out)

    def hold(self, prompts, path, sync=True):
        self.held = self.held or dict(enumerate(self.trace(prompts)))

    def hold_file(self, prompts, path):
        if not os.path.exists(path):
            self.hold(prompts, path)
            self.save(prompts, path)

    def save(self, prompts, path, sync=True):
        torch.save(self.held, path)
        if sync:
            wait_for_disk(path)

    def open(self, prompts, path):
        kept = torch.load(path, mmap=True, weights_only=True)
        return next(float(x.sum()) for x in kept.values() if x.dim() == 4)

    def release(self):
        self.held, self.kept = None, []

    def check(self, prompts):
        kept = self.trace(prompts) if self.attention == "eager" else []
        storages = {x.data_ptr(): x.numel() * x.element_size() for x in kept}
        return {
            "last": self.last(prompts)[0, -1, :16].tolist(),
            "kept_bytes": sum(storages.values()),
        }

    def sweep(self, clean, corrupt, answer, wrong, out):
        """One run for every layer and head, with the z of that head put there by a hook."""
        self.hook(None)
        inputs = [block.attn.c_proj for block in self.model.transformer.h]
        n_head = self.model.config.n_head
        d_head = self.model.config.n_embd // n_head
        kept, found = [], []
        hooks = [m.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone())) for m in inputs]
        self.run([clean])
        for hook in hooks:
            hook.remove()
        for module, z in zip(inputs, kept, strict=True):
            for head in range(n_head):
                columns = slice(d_head * head, d_head * (head + 1))

                def put(_, args, z=z, columns=columns):
                    x = args[0].clone()
                    x[..., columns] = z[..., columns]
                    return (x,)

                hook = module.register_forward_pre_hook(put)
                logits = self.run([corrupt], logits_to_keep=1).logits[0, -1]
                hook.remove()
                found.append(float(logits[answer] - logits[wrong]))
        Path(out).write_text(json.dumps([found[i : i + n_head] for i in range(0, len(found), n_head)]))


class Eager(HF):
    attention = "eager"


class Sdpa(HF):
    attention = "sdpa"
