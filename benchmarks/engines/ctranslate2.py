"""CTranslate2 in float32: the checkpoint converted once by its own converter."""

import json
import os
import time
from pathlib import Path

import ctranslate2


class CTranslate2:
    def __init__(self, folder, threads):
        self.threads = threads
        self.folder = Path(folder) / "ctranslate2"
        if not (self.folder / "model.bin").exists():
            convert(Path(folder), self.folder)
        self.model = self.load()
        self.first_token = None

    def load(self):
        return ctranslate2.Generator(
            str(self.folder), compute_type="float32", inter_threads=1, intra_threads=self.threads
        )

    def logits(self, prompts):
        return self.model.forward_batch(prompts)

    def last(self, prompts):
        return self._generate(prompts, 1)

    def decode(self, prompts, new, traced=False):
        def note(_):
            self.first_token = self.first_token or time.perf_counter()
            return False

        return self._generate(prompts, new, callback=note)

    def beams(self, prompts, new, beams):
        return self._generate(prompts, new, beam_size=beams)

    def _generate(self, prompts, new, **options):
        tokens = [[f"t{i}" for i in prompt] for prompt in prompts]
        out = self.model.generate_batch(
            tokens, max_length=new, min_length=new, include_prompt_in_result=False, **options
        )
        assert all(len(one.sequences_ids[0]) == new for one in out)
        return out

    def release(self):
        pass

    def check(self, prompts):
        import numpy as np

        return {"last": np.array(self.logits(prompts))[0, -1, :16].tolist(), "kept_bytes": 0}


def convert(folder, to):
    """Converts a checkpoint; the converter asks for a vocabulary, so the tokens are called t0, t1, ..."""
    from ctranslate2.converters import TransformersConverter
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = folder / "with_vocabulary"
    source.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        if not (source / name).exists():
            os.symlink(folder / name, source / name)
    n = json.loads((folder / "config.json").read_text())["vocab_size"]
    names = [f"t{i}" for i in range(n - 1)] + ["<|endoftext|>"]
    (source / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (source / "merges.txt").write_text("#version: 0.2\n")
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    TransformersConverter(str(source)).convert(str(to), force=True)
