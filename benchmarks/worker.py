"""One engine in a process of its own: reads a job a line (JSON) from stdin, answers seconds and peak memory.

python benchmarks/worker.py gpt2np|hf FOLDER
"""

import json
import resource
import sys
import time
from pathlib import Path


class Gpt2np:
    def __init__(self, folder):
        import gpt2np

        self.model = gpt2np.load(folder)

    def decode(self, prompts, new, keep=None):
        generation = self.model.generate(prompts, max_new_tokens=new, eos=None, keep=keep)
        for result in generation.finish():
            assert len(result.token_ids) == len(prompts[0]) + new

    def sweep(self, clean, corrupt, answer, wrong, out):
        from gpt2np.analysis.sweep import logit_difference, sweep

        found = sweep(clean, corrupt, logit_difference(answer, wrong), "h.*.attn.z", model=self.model)
        Path(out).write_text(json.dumps(found.array.tolist()))


class HF:
    def __init__(self, folder):
        import torch
        from transformers import GPT2LMHeadModel

        self.torch = torch
        self.model = GPT2LMHeadModel.from_pretrained(folder).eval()

    def decode(self, prompts, new, keep=None):
        ids = self.torch.tensor(prompts)
        with self.torch.no_grad():
            out = self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert out.shape == (len(prompts), len(prompts[0]) + new)

    def sweep(self, clean, corrupt, answer, wrong, out):
        """One run for every layer and head, with the z of that head put there by a hook."""
        inputs = [block.attn.c_proj for block in self.model.transformer.h]
        n_head = self.model.config.n_head
        d_head = self.model.config.n_embd // n_head
        kept, found = [], []
        with self.torch.no_grad():
            hooks = [
                m.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone())) for m in inputs
            ]
            self.model(self.torch.tensor([clean]), use_cache=False)
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
                    result = self.model(self.torch.tensor([corrupt]), use_cache=False, logits_to_keep=1)
                    hook.remove()
                    found.append(float(result.logits[0, -1, answer] - result.logits[0, -1, wrong]))
        Path(out).write_text(json.dumps([found[i : i + n_head] for i in range(0, len(found), n_head)]))


def main():
    engine = {"gpt2np": Gpt2np, "hf": HF}[sys.argv[1]](sys.argv[2])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        start = time.perf_counter()
        getattr(engine, job.pop("work"))(**job)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak}), flush=True)


if __name__ == "__main__":
    main()
