"""Holding a model in transformers against the same in the program."""

import torch
from program import difference

# Of the largest magnitude among the logits.
TOLERANCE = 2e-4
NEW_TOKENS = 8


def attentions(config):
    """The implementations of attention that transformers has for a model."""
    if config["model_type"] in ("bloom", "gemma2", "gptj", "gpt_neo", "mpt"):
        return ("eager",)
    # Falcon's eager attention adds linear biases twice, its sdpa once, as models were trained.
    return ("sdpa",) if config.get("alibi") else ("eager", "sdpa")


def logits(model, rows):
    with torch.no_grad():
        return [model(torch.tensor([row])).logits[0].float() for row in rows]


def close(ours, theirs, what, tolerance=TOLERANCE):
    error = difference(ours, theirs)
    assert error <= tolerance, f"{what}: {error:.1e}, more than {tolerance:.0e}"
    return error


def greedy(model, prompt, **options):
    ids = torch.tensor([prompt])
    # Without a mask, token 0 would be taken for padding.
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, **options)
    return out[0, len(prompt):].tolist()


def continuations(model, prompts):
    """Greedy continuations, which a cache does not change."""
    alone = [greedy(model, prompt) for prompt in prompts]
    assert alone == [greedy(model, prompt, use_cache=False) for prompt in prompts], "the cache changes what is generated"
    return alone


def follow(prompts, alone, ours):
    """The program's logits of prompts with their continuations lead there."""
    for prompt, new, row in zip(prompts, alone, ours, strict=True):
        chain = row[len(prompt) - 1 : -1].argmax(-1).tolist()
        assert chain == new, f"the program continues {prompt} with {chain}, transformers with {new}"


def same_continuations(program, directory, model, prompts):
    """Greedy continuations, with a cache and without, which are the program's; they are returned."""
    alone = continuations(model, prompts)
    follow(prompts, alone, program.logits(directory, [prompt + new for prompt, new in zip(prompts, alone)]))
    return alone


def same_padded(model, prompts, alone):
    """What it continues alone, it does in a batch padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    batch = model.generate(ids, attention_mask=mask, max_new_tokens=len(alone[0]), do_sample=False)
    assert batch[:, longest:].tolist() == alone, "padding on the left changes what is generated"


def same_model(program, directory, config, load, rows):
    """All logits are the program's, with each implementation of attention that `load` is given, and greedy continuations of some
    prompts, with a cache and without, alone and in a batch. Returns a model, its logits, and the largest error."""
    theirs = {}
    for attention in attentions(config):
        model = load(attn_implementation=attention)
        theirs[attention] = logits(model, rows)
    prompts = [rows[1], rows[2], rows[0][:9]]
    alone = continuations(model, prompts)
    # The program starts once for all of them: that takes longer than what it computes.
    ours = program.logits(directory, rows + [prompt + new for prompt, new in zip(prompts, alone)])
    worst = max(close(ours[: len(rows)], found, attention) for attention, found in theirs.items())
    follow(prompts, alone, ours[len(rows) :])
    same_padded(model, prompts, alone)
    return model, theirs[attention], worst


def train(model, rows):
    """Every parameter has a gradient, and following it lowers the loss."""
    ids = torch.tensor([row[:12] for row in rows if len(row) >= 12])
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        dead = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
        # Softmax does not see what all keys share.
        assert all(name.endswith(("k_proj.bias", "k_layernorm.bias")) for name in dead), f"no gradient: {dead}"
        optimizer.step()
    assert losses[-1] < losses[0], f"training does not lower the loss: {losses}"
