"""SAELens 6 around HF's model: `CacheActivationsRunner` for one layer, `ActivationsStore` for several.

The runner writes the output of one hook into a dataset of Arrow files, in contexts of equal length that
texts are concatenated to; its prompts are such contexts. Those who train SAEs on several layers at once
take the activations of all of them from a store, which has no files: they are written here as those of the
other engines are. Both stop after the last hook and compute no logits. The model is HF's
(`AutoModelForCausalLM`), since SAELens loads a `HookedTransformer` only by the name of a released model.
"""

import shutil

import datasets
import torch
from sae_lens import ActivationsStore, CacheActivationsRunner, CacheActivationsRunnerConfig
from sae_lens.load_model import load_model
from safetensors.torch import save_file
from transformers import AutoConfig
from transformers.utils import logging

from benchmarks.engines import torch_capture

logging.disable_progress_bar()
datasets.disable_progress_bars()
KIND = "AutoModelForCausalLM"


class SAELens:
    def __init__(self, folder, threads):
        torch.set_num_threads(threads)
        self.folder = folder
        config = AutoConfig.from_pretrained(folder)
        self.width, self.hooks = config.n_embd, [f"transformer.h.{i}" for i in range(config.n_layer)]
        self.model = load_model(KIND, folder, "cpu", hook_names=self.hooks)
        self.first_token = self.ready = None

    def prepare(self, prompts, out, batch, last_layer=False):
        """Make the runner, which loads a model of its own, or the store."""
        dataset = datasets.Dataset.from_dict({"input_ids": prompts})
        self.ready = (self._runner if last_layer else self._store)(dataset, out, batch)

    def _runner(self, dataset, out, batch):
        """One buffer of exactly the tokens there are: buffers are always filled, and by default have 2 GB."""
        shutil.rmtree(out, ignore_errors=True)
        context = len(dataset[0]["input_ids"])
        tokens = len(dataset) * context
        config = CacheActivationsRunnerConfig(
            dataset_path="",
            model_name=self.folder,
            model_class_name=KIND,
            model_batch_size=batch,
            hook_name=self.hooks[-1],
            d_in=self.width,
            training_tokens=tokens,
            context_size=context,
            new_cached_activations_path=out,
            shuffle=False,
            dtype="float16",
            device="cpu",
            buffer_size_gb=(tokens + 0.5) * self.width * torch.float16.itemsize / 1e9,
            prepend_bos=False,
            streaming=False,
        )
        assert (config.n_buffers, config.n_tokens_in_buffer) == (1, tokens)
        return CacheActivationsRunner(config, override_dataset=dataset)

    def _store(self, dataset, out, batch):
        return ActivationsStore.from_config_multi_hook(
            self.model,
            dataset=dataset,
            hook_names=self.hooks,
            hook_d_ins=dict.fromkeys(self.hooks, self.width),
            context_size=len(dataset[0]["input_ids"]),
            total_training_tokens=len(dataset),
            store_batch_size_prompts=batch,
            prepend_bos=False,
        )

    def capture(self, prompts, out, batch, last_layer=False):
        """What was prepared, done once: all contexts, in batches."""
        if last_layer:
            self.ready.run()
            return
        context = len(prompts[0])
        shape = len(prompts) * context, self.width
        kept = [torch.empty(shape, dtype=torch.float16) for _ in self.hooks]
        for first in range(0, shape[0], batch * context):
            found = self.ready.get_multi_hook_activations(self.ready.get_batch_tokens())
            for hook, rows in zip(self.hooks, kept, strict=True):
                rows[first : first + batch * context] = found[hook].flatten(0, 1)
        save_file({torch_capture.name_of(layer): rows for layer, rows in enumerate(kept)}, out)

    def captured(self, prompts, out, batch, last_layer=False):
        if not last_layer:
            return torch_capture.captured(out)
        rows = datasets.load_from_disk(out).with_format("numpy")[self.hooks[-1]]
        return torch_capture.sample(torch.from_numpy(rows[:]).flatten(0, 1))
