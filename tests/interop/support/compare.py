"""Holding a model in transformers against the same in the program."""

import torch
from program import difference

# Of the largest magnitude among the logits.
TOLERANCE = 2e-4
NEW_TOKENS = 8


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


def same_continuations(program, directory, model, prompts):
    """Greedy continuations, with a cache and without, which are the program's; they are returned."""
    alone = [greedy(model, prompt) for prompt in prompts]
    assert alone == [greedy(model, prompt, use_cache=False) for prompt in prompts], "the cache changes what is generated"
    ours = program.logits(directory, [prompt + new for prompt, new in zip(prompts, alone)])
    for prompt, new, row in zip(prompts, alone, ours):
        chain = row[len(prompt) - 1 : -1].argmax(-1).tolist()
        assert chain == new, f"the program continues {prompt} with {chain}, transformers with {new}"
    return alone
