#!/usr/bin/env python3
"""Makes the demo model of this folder from nothing: texts, tokenizer, a small LLaMA, its checks.

    pip install torch safetensors tokenizers
    python train.py                                  # 25 minutes of training on one CPU core
    python train.py --minutes 60 --threads 8         # longer, better

All text comes from stories.py next to this script (training seed 1, held-out seed 2, calibration seed 3). Writes
config.json, model.safetensors, the tokenizer files, heldout.txt and calibration.txt into --out (default: this folder).
"""
import argparse
import json
import math
import pathlib
import random
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from stories import stories

HERE = pathlib.Path(__file__).resolve().parent
BOS, EOS, WINDOW = 1, 2, 256
CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=1024, hidden_size=128, intermediate_size=256,
    num_hidden_layers=5, num_attention_heads=8, num_key_value_heads=2, head_dim=16, max_position_embeddings=WINDOW,
    rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", attention_bias=False, mlp_bias=False, attention_dropout=0.0,
    tie_word_embeddings=False, bos_token_id=BOS, eos_token_id=EOS, initializer_range=0.02, use_cache=True, torch_dtype="float16")


# ------------------------------------------------------------------------------------------------ text and tokens
def make_tokenizer(texts):
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)])
    return tok


def save_tokenizer(tok, out):
    tok.save(str(out / "tokenizer.json"))
    special = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    write_json(out / "special_tokens_map.json", special)
    write_json(out / "tokenizer_config.json", dict(
        special, tokenizer_class="PreTrainedTokenizerFast", model_max_length=WINDOW, clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"]))


def pack(tok, texts, rng):
    """<s> story </s> <s> story ..., and one time in two a blank line instead of </s> <s>, as in the text files."""
    blank, ids = tok.encode("\n\n", add_special_tokens=False).ids, [BOS]
    for enc in tok.encode_batch(texts, add_special_tokens=False):
        ids += enc.ids + (blank if rng.random() < 0.5 else [EOS, BOS])
    return torch.tensor(ids)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------ the model
def rms(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"]) * weight


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)                                                     # half-split, as transformers stores LLaMA
    return x * cos + torch.cat((-b, a), -1) * sin


def init_weights(c, gen):
    """All tensors under transformers' names."""
    d, f, q, kv = c["hidden_size"], c["intermediate_size"], *(c[k] * c["head_dim"] for k in ("num_attention_heads", "num_key_value_heads"))
    shapes = {"model.embed_tokens.weight": (c["vocab_size"], d)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes.update({p + "input_layernorm.weight": (d,), p + "self_attn.q_proj.weight": (q, d), p + "self_attn.k_proj.weight": (kv, d),
                       p + "self_attn.v_proj.weight": (kv, d), p + "self_attn.o_proj.weight": (d, q), p + "post_attention_layernorm.weight": (d,),
                       p + "mlp.gate_proj.weight": (f, d), p + "mlp.up_proj.weight": (f, d), p + "mlp.down_proj.weight": (d, f)})
    shapes.update({"model.norm.weight": (d,), "lm_head.weight": (c["vocab_size"], d)})
    w = {}
    for name, shape in shapes.items():
        std = 0.05 if "embed" in name else 0.02 if "head" in name else shape[-1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std /= math.sqrt(2 * c["num_hidden_layers"])
        w[name] = (torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=gen) * std).requires_grad_()
    return w


def forward(w, ids, c=CONFIG):
    """Token ids [batch, time] to logits."""
    b, t = ids.shape
    n, kv, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    freq = c["rope_theta"] ** (-torch.arange(0, hd, 2).float() / hd)
    angle = torch.outer(torch.arange(t).float(), freq).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()
    x = F.embedding(ids, w["model.embed_tokens.weight"])
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        y = rms(x, w[p + "input_layernorm.weight"])
        q, k, v = (F.linear(y, w[p + f"self_attn.{s}_proj.weight"]).view(b, t, -1, hd).transpose(1, 2) for s in "qkv")
        k, v = rotate(k, cos, sin).repeat_interleave(n // kv, 1), v.repeat_interleave(n // kv, 1)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        x = x + F.linear(y.transpose(1, 2).reshape(b, t, n * hd), w[p + "self_attn.o_proj.weight"])
        y = rms(x, w[p + "post_attention_layernorm.weight"])
        y = F.silu(F.linear(y, w[p + "mlp.gate_proj.weight"])) * F.linear(y, w[p + "mlp.up_proj.weight"])
        x = x + F.linear(y, w[p + "mlp.down_proj.weight"])
    return F.linear(rms(x, w["model.norm.weight"]), w["lm_head.weight"])


# ------------------------------------------------------------------------------------------------ training
class Optimizer:
    """Momentum with orthogonalised steps (Newton-Schulz) for the matrices of the layers, Adam for the rest; no weight decay.

    Orthogonal steps use every direction of the residual stream, so the trained model has little slack to slice away.
    """

    def __init__(self, w, lr_matrix, lr_adam):
        self.adam = torch.optim.Adam([v for k, v in w.items() if v.ndim == 1 or "layers" not in k], lr=lr_adam, betas=(0.9, 0.98), eps=1e-10)
        groups = {}
        for k, v in w.items():
            if v.ndim == 2 and "layers" in k:
                groups.setdefault(tuple(v.shape), []).append(v)
        self.groups = [(g, torch.zeros(len(g), *s)) for s, g in groups.items()]
        self.lr_matrix, self.lr_adam = lr_matrix, lr_adam

    @torch.no_grad()
    def step(self, factor):
        self.adam.param_groups[0]["lr"] = self.lr_adam * factor
        self.adam.step()
        for params, momentum in self.groups:
            grad = torch.stack([p.grad for p in params])
            momentum.mul_(0.95).add_(grad)
            u = grad + 0.95 * momentum
            tall = u.shape[1] > u.shape[2]
            u = u.mT if tall else u
            u = u / (u.norm(dim=(1, 2), keepdim=True) + 1e-9)
            for _ in range(5):
                a = u @ u.mT
                u = 3.4445 * u + (-4.775 * a + 2.0315 * a @ a) @ u
            u = u.mT if tall else u
            scale = self.lr_matrix * factor * max(1.0, u.shape[1] / u.shape[2]) ** 0.5
            for p, s in zip(params, u):
                p.sub_(s, alpha=scale)
        for p in [p for g, _ in self.groups for p in g] + self.adam.param_groups[0]["params"]:
            p.grad = None


def loss_of(w, windows):
    return F.cross_entropy(forward(w, windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def perplexity(w, ids):
    """Tokenised once, windows of 256, the tail dropped, exp of the mean of the window means."""
    windows = torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    return math.exp(sum(loss_of(w, x[None]).item() for x in windows) / len(windows))


def train(w, stream, args, check):
    opt, gen = Optimizer(w, args.lr_matrix, args.lr_adam), torch.Generator().manual_seed(args.seed)
    budget, start, step, running = args.minutes * 60, time.time(), 0, 0.0
    firsts = (stream[:-WINDOW] == BOS).nonzero().flatten()
    while (done := (time.time() - start) / budget) < 1:
        at = torch.randint(len(stream) - WINDOW, (args.batch,), generator=gen)                    # half of the windows start anywhere,
        at[::2] = firsts[torch.randint(len(firsts), (len(at[::2]),), generator=gen)]              # half at a <s>
        batch = stream[at[:, None] + torch.arange(WINDOW)]
        loss = loss_of(w, batch)
        loss.backward()
        opt.step(min(1.0, (step + 1) / 50, (1 - done) / 0.6))                 # warm up, hold, go down to zero
        step, running = step + 1, loss.item() if not step else 0.98 * running + 0.02 * loss.item()
        if step % 200 == 0:
            print(f"step {step}  {step * args.batch * WINDOW / 1e6:.2f}M tokens  {time.time() - start:.0f} s  loss {running:.4f}"
                  + (f"  held-out perplexity {check():.3f}" if step % 1000 == 0 else ""), flush=True)
    return step, time.time() - start


@torch.no_grad()
def sample(w, tok, gen, length=220, temperature=0.8):
    ids = [BOS]
    while len(ids) < length and (len(ids) == 1 or ids[-1] != EOS):
        p = (forward(w, torch.tensor([ids]))[0, -1] / temperature).softmax(-1)
        ids.append(int(torch.multinomial(p, 1, generator=gen)))
    return tok.decode(ids)


def main():
    ap = argparse.ArgumentParser(description="train the demo model")
    ap.add_argument("--out", type=pathlib.Path, default=HERE)
    ap.add_argument("--minutes", type=float, default=25)
    ap.add_argument("--stories", type=int, default=60000)
    ap.add_argument("--batch", type=int, default=8)
    ap.add_argument("--lr-matrix", type=float, default=0.02)
    ap.add_argument("--lr-adam", type=float, default=0.006)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--resume", action="store_true", help="go on from the stored weights (same tokenizer, fresh optimizer)")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    t = time.time()
    train_text, heldout, calibration = list(stories(1, args.stories)), list(stories(2, 70)), list(stories(3, 170))
    assert not set(train_text) & set(heldout + calibration)
    for name, texts in (("heldout.txt", heldout), ("calibration.txt", calibration)):
        (args.out / name).write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    tok = make_tokenizer(train_text[:6000])
    assert all(tok.decode(tok.encode(s).ids) == s for s in heldout)
    save_tokenizer(tok, args.out)
    write_json(args.out / "config.json", CONFIG)
    write_json(args.out / "generation_config.json", dict(bos_token_id=BOS, eos_token_id=EOS, do_sample=True, temperature=0.8, max_new_tokens=200))
    stream = pack(tok, train_text, random.Random(args.seed))
    eval_ids = tok.encode((args.out / "heldout.txt").read_text(encoding="utf-8")).ids
    print(f"{len(stream)} training tokens, {len(eval_ids)} held-out tokens, prepared in {time.time() - t:.0f} s", flush=True)
    w = init_weights(CONFIG, torch.Generator().manual_seed(args.seed))
    if args.resume:
        w = {k: v.float().requires_grad_() for k, v in load_file(str(args.out / "model.safetensors")).items()}
    print(f"{sum(v.numel() for v in w.values())} parameters", flush=True)
    steps, seconds = train(w, stream, args, lambda: perplexity(w, eval_ids))
    half = {k: v.detach().half().contiguous() for k, v in w.items()}
    save_file(half, str(args.out / "model.safetensors"), metadata={"format": "pt"})
    w = {k: v.float() for k, v in half.items()}                               # what is reported is what was stored
    print(f"{steps} steps in {seconds:.0f} s, held-out perplexity {perplexity(w, eval_ids):.4f}\n")
    gen = torch.Generator().manual_seed(args.seed)
    print("\n\n".join(sample(w, tok, gen) for _ in range(3)))


if __name__ == "__main__":
    main()
