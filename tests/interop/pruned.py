#!/usr/bin/env python3
"""Does transformers load checkpoints whose layers differ in size, and compute and generate with them as the program does?

    python tests/interop/pruned.py --binary target/release/slicegpt-gpu [NAME ...]

Every model in tests/fixtures/parity is pruned by hand, given the Python files that lie in assets/transformers, and loaded by
AutoModelForCausalLM: all logits are the program's, greedy continuations too, with a cache and without; saved by transformers, it
is the same model again. So is what `compress --per-layer` makes of the demo model, and, as ordinary checkpoints, what
`prune --channel` makes of some.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

# Files beside this one may be called like packages.
HERE = Path(__file__).resolve().parent
sys.path = [str(HERE / "support")] + [path for path in sys.path if Path(path or ".").resolve() != HERE]
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from program import DEMO, Program, dense_fixtures, difference
from prune import prune
from transformers import AutoModelForCausalLM, AutoTokenizer

# Of the largest magnitude among the logits.
TOLERANCE = 2e-4
NEW_TOKENS = 8


def load(directory, **options):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, output_loading_info=True, dtype=torch.float32, trust_remote_code=True, **options
    )
    assert not any(info.values()), f"not loaded as stored: {info}"
    # Otherwise continuations would end before they show anything.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


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


def check(program, source, work):
    """Prunes one model and checks it; returns the largest relative error of its logits."""
    directory = work / "pruned"
    if source == DEMO:
        calibration = ["--calibration", DEMO / "calibration.txt", "--cal-nsamples", 24]
        program("compress", DEMO, "-o", directory, *calibration, "--axes", "mlp", "--effort", "quick", "--per-layer")
        ids = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)((DEMO / "heldout.txt").read_text()).input_ids
        rows = [ids[:64], ids[64:100], ids[100:110]]
    else:
        prune(source, directory)
        rows = json.loads((source / "tokens.json").read_text())["input_ids"]
    layers = json.loads((directory / "config.json").read_text())["pruning"]["layers"]
    assert layers[0] != layers[1], "layers that do not differ show nothing"
    return check_pruned(program, source, directory, rows, work / "saved")


# Layer norms and parallel blocks, norms after blocks alone, fused weights, a tied head: ordinary classes of each.
NARROWER = ["cohere_untied", "olmo2_untied", "phi3_gqa", "qwen2_gqa_tied"]


def check_narrower(program, source, work):
    """The same of a model with fewer coordinates of the residual stream."""
    directory, tokens = work / "narrower", source / "tokens.json"
    program("prune", source, "-o", directory, "--channel", "--ratio", 0.34, "--examples", tokens)
    config = json.loads((directory / "config.json").read_text())
    assert config["hidden_size"] < json.loads((source / "config.json").read_text())["hidden_size"]
    assert "auto_map" not in config and not list(directory.glob("*.py")), "its classes are transformers' own"
    return check_pruned(program, source, directory, json.loads(tokens.read_text())["input_ids"], work / "saved")


def check_pruned(program, source, directory, rows, saved):
    ours = program.logits(directory, rows)
    worst = 0.0
    kind = json.loads((source / "config.json").read_text())["model_type"]
    # transformers has one implementation for gptj.
    for attention in ("eager",) if kind == "gptj" else ("sdpa", "eager"):
        model = load(directory, attn_implementation=attention)
        worst = max(worst, close(ours, logits(model, rows), attention))
    prompts = [rows[1], rows[2], rows[0][:9]]
    for prompt in prompts:
        new = greedy(model, prompt)
        assert new == greedy(model, prompt, use_cache=False), "the cache changes what is generated"
        (row,) = program.logits(directory, [prompt + new])
        chain = row[len(prompt) - 1 : -1].argmax(-1).tolist()
        assert chain == new, f"the program continues {prompt} with {chain}, transformers with {new}"
    expected = logits(model, rows)
    model.save_pretrained(saved)
    close(expected, logits(load(saved, attn_implementation="eager"), rows), "saved and loaded", 0.0)
    close(program.logits(saved, rows), expected, "saved by transformers, read by the program")
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the slicegpt-gpu to test")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only the models whose names start so")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    program = Program(arguments.binary)
    # Of others, only the program itself runs what has layers of different sizes.
    code = Path(__file__).resolve().parents[2] / "assets" / "transformers"
    kind = lambda source: json.loads((source / "config.json").read_text())["model_type"]
    sources = [source for source in dense_fixtures() if (code / f"configuration_pruned_{kind(source)}.py").exists()]
    chosen = [source for source in [*sources, DEMO] if not arguments.names or source.name.startswith(tuple(arguments.names))]
    assert chosen, f"no model is called {arguments.names}"
    failed = []
    begin = time.monotonic()
    narrower = [source for source in chosen if source.name in NARROWER]
    for source, how in [*((source, check) for source in chosen), *((source, check_narrower) for source in narrower)]:
        with tempfile.TemporaryDirectory() as work:
            try:
                error = how(program, source, Path(work))
            except Exception as reason:
                failed.append(source.name)
                print(f"{source.name:34} FAILED: {type(reason).__name__}: {reason}", flush=True)
                if arguments.names:
                    raise
                continue
        print(f"{source.name:34} ok  largest error {error:.0e}", flush=True)
    count = len(chosen) + len(narrower)
    print(f"{count - len(failed)} of {count} models, {time.monotonic() - begin:.0f} s; "
          f"transformers {transformers.__version__}, torch {torch.__version__}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
