#!/usr/bin/env python3
"""Does transformers load checkpoints whose layers differ in size, and compute and generate with them as the program does?

    python tests/interop/pruned.py --binary target/release/slicegpt-gpu [NAME ...]

Every model in tests/fixtures/parity is pruned by hand, given the Python files that lie in assets/transformers, and loaded by
AutoModelForCausalLM: all logits are the program's, greedy continuations too, with a cache and without, alone and in a batch
padded on the left; saved by transformers, it is the same model again. The first of each architecture also learns. So does what
`compress --per-layer` makes of the demo model. The same holds of what `prune` makes of some, and, as ordinary checkpoints,
`prune --channel`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

# Files beside this one may be called like packages.
HERE = Path(__file__).resolve().parent
sys.path = [str(HERE / "support")] + [path for path in sys.path if Path(path or ".").resolve() != HERE]
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from compare import close, logits, same_model, train
from program import DEMO, FIXTURES, Program, dense_fixtures
from prune import CODE, prune
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(directory, **options):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, output_loading_info=True, dtype=torch.float32, trust_remote_code=True, **options
    )
    assert not any(info.values()), f"not loaded as stored: {info}"
    # Otherwise continuations would end before they show anything.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def check(program, source, work, learns):
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
    return check_pruned(program, source, directory, rows, work / "saved", learns)


# One key for all heads, channels alone, and the text part of a larger model.
BY_PROGRAM = ["falcon_7b", "mpt_tied", "gemma3_multimodal"]


def check_program(program, source, work, learns):
    """The same of a model that the program has pruned in one layer."""
    directory, tokens = work / "pruned", source / "tokens.json"
    what = ["--mlp"] if source.name.startswith("mpt") else []
    program("prune", source, "-o", directory, *what, "--ratio", 0.5, "--layers", "0..1", "--importance", "l2", "--examples", tokens)
    return check_pruned(program, source, directory, json.loads(tokens.read_text())["input_ids"], work / "saved", learns)


# Layer norms and parallel blocks, norms after blocks alone, fused weights, a tied head: ordinary classes of each.
NARROWER = ["cohere_untied", "olmo2_untied", "phi3_gqa", "qwen2_gqa_tied"]


def check_narrower(program, source, work, learns):
    """The same of a model with fewer coordinates of the residual stream."""
    directory, tokens = work / "narrower", source / "tokens.json"
    program("prune", source, "-o", directory, "--channel", "--ratio", 0.34, "--examples", tokens)
    config = json.loads((directory / "config.json").read_text())
    assert config["hidden_size"] < json.loads((source / "config.json").read_text())["hidden_size"]
    assert "auto_map" not in config and not list(directory.glob("*.py")), "its classes are transformers' own"
    return check_pruned(program, source, directory, json.loads(tokens.read_text())["input_ids"], work / "saved", learns)


def check_pruned(program, source, directory, rows, saved, learns):
    config = json.loads((source / "config.json").read_text())
    model, expected, worst = same_model(program, directory, config, partial(load, directory), rows)
    model.save_pretrained(saved)
    again = load(saved, attn_implementation=model.config._attn_implementation)
    close(expected, logits(again, rows), "saved and loaded", 0.0)
    close(program.logits(saved, rows), expected, "saved by transformers, read by the program")
    if learns:
        train(model, rows)
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
    kind = lambda source: json.loads((source / "config.json").read_text())["model_type"]
    # Of others, only the program itself runs what has layers of different sizes; of one layer, there is none that differs.
    has_code = lambda source: (CODE / f"configuration_pruned_{kind(source)}.py").exists()
    sources = [source for source in dense_fixtures() if has_code(source) and source.name != "bloom_power_of_two"]
    first = {kind(source): source for source in reversed(sources)}.values()
    chosen = [source for source in [*sources, DEMO] if not arguments.names or source.name.startswith(tuple(arguments.names))]
    failed = []
    begin = time.monotonic()
    tasks = [(source, check) for source in chosen]
    tasks += [(source, check_narrower) for source in chosen if source.name in NARROWER]
    by_program = [FIXTURES / name for name in BY_PROGRAM if not arguments.names or name.startswith(tuple(arguments.names))]
    tasks += [(source, check_program) for source in by_program]
    assert tasks, f"no model is called {arguments.names}"
    for source, how in tasks:
        with tempfile.TemporaryDirectory() as work:
            try:
                error = how(program, source, Path(work), source in first or source == DEMO)
            except Exception as reason:
                failed.append(source.name)
                print(f"{source.name:34} FAILED: {type(reason).__name__}: {reason}", flush=True)
                if arguments.names:
                    raise
                continue
        print(f"{source.name:34} ok  largest error {error:.0e}", flush=True)
    print(f"{len(tasks) - len(failed)} of {len(tasks)} models, {time.monotonic() - begin:.0f} s; "
          f"transformers {transformers.__version__}, torch {torch.__version__}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
