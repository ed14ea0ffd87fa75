"""One engine in a process of its own: reads a job a line (JSON) from stdin, answers seconds and peak memory.

python benchmarks/worker.py gpt2np|hf FOLDER
"""

import json
import resource
import sys
import time


class Gpt2np:
    def __init__(self, folder):
        import gpt2np

        self.model = gpt2np.load(folder)

    def decode(self, prompts, new, keep=None):
        generation = self.model.generate(prompts, max_new_tokens=new, eos=None, keep=keep)
        for result in generation.finish():
            assert len(result.token_ids) == len(prompts[0]) + new


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
