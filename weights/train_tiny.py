"""Train the shipped checkpoint `weights/tiny` from scratch: a tokeniser, then a four-layer GPT-2.

A development script: it needs torch and tokenizers (`pip install '.[ref]'`) and the two texts
`austen.txt.xz` and `shakespeare.txt.xz` in one folder. It writes its state every few minutes, so
that a second call with the same `--run` folder continues where the first one stopped.

    python weights/train_tiny.py --corpus ../shared/data/corpus --run /tmp/tiny --minutes 90
    python weights/train_tiny.py --run /tmp/tiny --export weights/tiny

Two things are done on purpose so that the checkpoint is worth looking into:

- The position table starts as sinusoids, and for the first steps head 0.0 is rewarded for looking one
  token back (`--previous-token-steps`). After that nothing rewards it but the text.
- Some rows of each batch (`--copy-rows`) are random tokens that occur twice, at random distances.
  Predicting the second occurrence needs an induction head. No head is told to become one.
"""

import argparse
import json
import lzma
import math
import os
import re
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

N_LAYER, N_HEAD, N_EMBD, N_POSITIONS, N_VOCAB = 4, 4, 192, 256, 2048
END_OF_TEXT = "<|endoftext|>"
HELD_OUT = 0.05  # the last part of each text


# -- text -----------------------------------------------------------------------------------------


def read_texts(folder: Path) -> list[tuple[str, str]]:
    """(training part, held-out part) of each text: the last 5 % of the characters are held out."""
    pairs = []
    for name in ("austen", "shakespeare"):
        with lzma.open(folder / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            text = file.read()
        cut = int(len(text) * (1 - HELD_OUT))
        pairs.append((text[:cut], text[cut:]))
    return pairs


def split_works(text: str) -> list[str]:
    """The novels and plays of one text: each begins with a title line before its author or first act."""
    starts = [m.start(1) for m in re.finditer(r"(?:^|\n\n)([^\n]+\n\n(?:By Jane Austen|ACT I)\n)", text)]
    edges = sorted({0, *starts, len(text)})
    return [text[a:b] for a, b in pairwise(edges)]


def train_tokenizer(texts: list[str], folder: Path) -> None:
    """Byte-level BPE in GPT-2's own order: 256 bytes, the merges, then <|endoftext|> last."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    tokenizer = ByteLevelBPETokenizer()
    trainer = BpeTrainer(vocab_size=N_VOCAB - 1, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer._tokenizer.train_from_iterator(
        (p for t in texts for p in re.split(r"(?<=\n)(?=\n)", t)), trainer
    )
    tokenizer.save_model(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    vocab[END_OF_TEXT] = len(vocab)
    assert sorted(vocab.values()) == list(range(N_VOCAB))
    ordered = dict(sorted(vocab.items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(ordered, ensure_ascii=False), "utf-8")


def encode(folder: Path, works: list[str]) -> np.ndarray:
    """Token ids of all works, each begun by <|endoftext|>."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    ids: list[int] = []
    for work in works:
        ids.append(N_VOCAB - 1)
        # in pieces at paragraph borders: equal to one call, and much quicker
        for piece in re.split(r"(?<=\S)(?=\n\n\S)", work):
            ids.extend(tokenizer.encode(piece).ids)
    return np.array(ids, dtype=np.int64)


# -- model ----------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(N_EMBD), nn.LayerNorm(N_EMBD)
        self.c_attn, self.c_proj = nn.Linear(N_EMBD, 3 * N_EMBD), nn.Linear(N_EMBD, N_EMBD)
        self.c_fc, self.mlp_proj = nn.Linear(N_EMBD, 4 * N_EMBD), nn.Linear(4 * N_EMBD, N_EMBD)

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # [batch, pos, n_embd]
        q, k, v = self.c_attn(self.ln_1(x)).split(N_EMBD, dim=2)
        shape = (*x.shape[:2], N_HEAD, N_EMBD // N_HEAD)
        return tuple(y.view(shape).transpose(1, 2) for y in (q, k, v))  # [batch, head, pos, d_head]

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch, pos, n_embd]
        q, k, v = self.heads(x)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(z.transpose(1, 2).reshape(x.shape))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Tiny(nn.Module):
    """GPT-2, tied unembedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(N_VOCAB, N_EMBD), nn.Embedding(N_POSITIONS, N_EMBD)
        self.h = nn.ModuleList(Block() for _ in range(N_LAYER))
        self.ln_f = nn.LayerNorm(N_EMBD)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("c_proj.weight", "mlp_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * N_LAYER) if deep else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        angle = torch.arange(N_POSITIONS)[:, None] / 10000 ** torch.linspace(0, 1, N_EMBD // 2)
        self.wpe.weight.data = 0.02 * torch.cat([angle.sin(), angle.cos()], dim=1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)

    def patterns(self, ids: torch.Tensor) -> torch.Tensor:
        """Every attention pattern [layer, batch, head, query, key], the slow way."""
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        patterns = []
        for block in self.h:
            patterns.append(pattern(block, x))
            x = block(x)
        return torch.stack(patterns)


def pattern(block: Block, x: torch.Tensor) -> torch.Tensor:  # -> [batch, head, query, key]
    q, k, _ = block.heads(x)
    scores = (q @ k.transpose(-1, -2)) * (N_EMBD // N_HEAD) ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1)


def previous_token_loss(model: Tiny, ids: torch.Tensor) -> torch.Tensor:
    """-log of head 0.0's attention to the token before, averaged."""
    x = model.wte(ids) + model.wpe.weight[: ids.shape[1]]
    back = pattern(model.h[0], x)[:, 0].diagonal(-1, 1, 2)
    return -(back.clamp_min(1e-6)).log().mean()


# -- batches --------------------------------------------------------------------------------------


def text_rows(ids: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    starts = rng.integers(0, len(ids) - N_POSITIONS - 1, n)
    return np.stack([ids[s : s + N_POSITIONS + 1] for s in starts])


def copy_rows(ids: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows in which random segments come back, and a mask of the targets that are predictable.

    Each row is filled with chunks: fresh random tokens, or a piece of what this row already said
    (at least 4 tokens). Periods and distances vary, so only content tells where to copy from.
    """
    rows = np.empty((n, N_POSITIONS + 1), np.int64)
    known = np.zeros((n, N_POSITIONS + 1), bool)
    for row, mask in zip(rows, known, strict=True):
        row[:] = rng.integers(0, N_VOCAB - 1, len(row))
        at = int(rng.integers(8, 48))
        while at < len(row):
            length = min(int(rng.integers(4, 40)), at, len(row) - at)
            start = int(rng.integers(0, at - length + 1))
            row[at : at + length] = row[start : start + length]
            mask[at + 1 : at + length] = True  # its first token nobody can know
            at += length + int(rng.integers(0, 12))
    return rows, known


# -- measuring ------------------------------------------------------------------------------------


@torch.no_grad()
def bits_per_character(model: nn.Module, ids: np.ndarray, characters: int) -> float:
    """Windows of n_positions without overlap; every token but the first is predicted once."""
    total = 0.0
    for start in range(0, len(ids) - 1, N_POSITIONS):
        window = torch.from_numpy(ids[start : start + N_POSITIONS + 1])
        total += F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="sum").item()
    return total / math.log(2) / characters


@torch.no_grad()
def head_scores(model: Tiny, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean attention [layer, head] to the previous token on text; to the token after the previous
    occurrence on 64 random tokens said twice."""
    rng = np.random.default_rng(0)
    text = model.patterns(torch.from_numpy(text_rows(held, 8, rng)[:, :-1]))
    previous = text.diagonal(-1, 3, 4).mean((1, 3)).numpy()
    half = rng.integers(0, N_VOCAB - 1, (8, 64))
    twice = model.patterns(torch.from_numpy(np.concatenate([half, half], 1)))
    induction = twice[..., 64:, :].diagonal(1, 3, 4).mean((1, 3)).numpy()
    return previous, induction


# -- training -------------------------------------------------------------------------------------


def optimizers(model: Tiny) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [p for p in model.h.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    tables = [model.wte.weight, model.wpe.weight]
    return [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(
            [{"params": tables, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.0}],
            lr=2e-3, betas=(0.9, 0.98),
        ),
    ]  # fmt: skip


def train(args: argparse.Namespace) -> None:
    run = args.run
    run.mkdir(parents=True, exist_ok=True)
    pairs = read_texts(args.corpus)
    if not (run / "vocab.json").exists():
        train_tokenizer([t for t, _ in pairs], run)
    if not (run / "ids.npz").exists():
        train_ids = encode(run, [w for t, _ in pairs for w in split_works(t)])
        held_ids = [encode(run, [h])[1:] for _, h in pairs]
        np.savez(run / "ids.npz", train=train_ids, austen=held_ids[0], shakespeare=held_ids[1])
    data = np.load(run / "ids.npz")
    ids, held = data["train"], np.concatenate([data["austen"], data["shakespeare"]])
    characters = sum(len(h) for _, h in pairs)
    print(f"{len(ids):,} training tokens, {len(held):,} held out ({characters:,} characters)")

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = Tiny()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    opts = optimizers(model)
    state = {"step": 0, "seconds": 0.0, "log": []}
    if (run / "state.pt").exists():
        saved = torch.load(run / "state.pt", weights_only=False)
        model.load_state_dict(saved["model"])
        for opt, s in zip(opts, saved["opts"], strict=True):
            opt.load_state_dict(s)
        state = saved["state"]
        print(f"continuing at step {state['step']}")
    base = [[g["lr"] for g in opt.param_groups] for opt in optimizers(Tiny())]
    last = time.time()
    began, spent = time.time(), state["seconds"]
    while True:
        step = state["step"]
        rng = np.random.default_rng([args.seed, step])
        state["seconds"] = spent + time.time() - began
        # warm up, hold, then a straight line down to nothing over the last 40 % of the time
        progress = state["seconds"] / 60 / args.minutes
        rate = min(1, (step + 1) / 100, max(0.0, (1 - progress) / 0.4))
        for opt, rates in zip(opts, base, strict=True):
            for group, r in zip(opt.param_groups, rates, strict=True):
                group["lr"] = r * rate
        n_copy = args.copy_rows if progress < 0.5 else max(1, args.copy_rows // 4)
        text = torch.from_numpy(text_rows(ids, args.text_rows, rng))
        copies, known = (torch.from_numpy(a) for a in copy_rows(ids, n_copy, rng))
        rows = torch.cat([text, copies])
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits = model(rows[:, :-1])
        losses = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(
            len(rows), -1
        )
        text_loss = losses[: len(text)].mean()
        copy_loss = (losses[len(text) :] * known[:, 1:]).sum() / known[:, 1:].sum()
        loss = text_loss + copy_loss * (n_copy / len(text))
        if step < args.previous_token_steps:
            loss = loss + 0.1 * previous_token_loss(model, text[:4, :-1])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        state["step"] = step + 1
        done = rate <= 0 and step > 100
        if step % 50 == 0:
            tokens = 50 * rows[:, 1:].numel() / max(time.time() - last, 1e-9)
            last = time.time()
            print(
                f"step {step} min {state['seconds'] / 60:.1f} text {text_loss.item():.3f} "
                f"copy {copy_loss.item():.3f} rate {rate:.3f} {tokens:.0f} tok/s", flush=True,
            )  # fmt: skip
        if step % args.every == 0 or done:
            bits = bits_per_character(model, held, characters)
            previous, induction = head_scores(model, held)
            p, i = np.argmax(previous), np.argmax(induction)
            state["log"].append((step, state["seconds"], bits, float(previous.max()), float(induction.max())))
            print(
                f"  held out {bits:.4f} bits/char; previous-token {p // N_HEAD}.{p % N_HEAD} "
                f"{previous.max():.2f}; induction {i // N_HEAD}.{i % N_HEAD} {induction.max():.2f}",
                flush=True,
            )
            torch.save(
                {"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "state": state},
                run / "state.tmp",
            )
            os.replace(run / "state.tmp", run / "state.pt")
            last = time.time()
        if done:
            break


# -- export ---------------------------------------------------------------------------------------

HF_NAMES = {"c_attn": "attn.c_attn", "c_proj": "attn.c_proj", "c_fc": "mlp.c_fc", "mlp_proj": "mlp.c_proj"}


def export(run: Path, folder: Path) -> None:
    """The checkpoint in HF's layout, stored as float16, and the loss curve on stdout."""
    from safetensors.torch import save_file

    saved = torch.load(run / "state.pt", weights_only=False)
    tensors = {}
    for name, value in saved["model"].items():
        match = re.fullmatch(r"(h\.\d+)\.(c_attn|c_proj|c_fc|mlp_proj)\.(weight|bias)", name)
        if match:  # HF's Conv1D stores [n_in, n_out]
            name = f"{match[1]}.{HF_NAMES[match[2]]}.{match[3]}"
            value = value.t() if match[3] == "weight" else value
        tensors[f"transformer.{name}"] = value.half().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "bos_token_id": N_VOCAB - 1,
        "eos_token_id": N_VOCAB - 1,
        "layer_norm_epsilon": 1e-05,
        "n_embd": N_EMBD,
        "n_head": N_HEAD,
        "n_layer": N_LAYER,
        "n_positions": N_POSITIONS,
        "vocab_size": N_VOCAB,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((run / name).read_bytes())
    print("| step | minutes | bits per character | previous-token | induction |")
    print("| --- | --- | --- | --- | --- |")
    for step, seconds, bits, previous, induction in saved["state"]["log"]:
        print(f"| {step} | {seconds / 60:.0f} | {bits:.3f} | {previous:.2f} | {induction:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("../shared/data/corpus"))
    parser.add_argument("--run", type=Path, required=True, help="folder for the state of this run")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--text-rows", type=int, default=16)
    parser.add_argument("--copy-rows", type=int, default=4)
    parser.add_argument("--previous-token-steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=250, help="steps between measurements")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="forward pass in bfloat16: twice as fast")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the checkpoint of this run")
    args = parser.parse_args()
    if args.export:
        export(args.run, args.export)
    else:
        train(args)


if __name__ == "__main__":
    main()
