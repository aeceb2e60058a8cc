#!/usr/bin/env python3
"""Does PEFT load the adapter that `recover` writes, and compute with it what the merged model computes?

    python tests/interop/adapter.py --binary target/release/slicegpt-gpu [NAME ...]

Of models whose queries, keys and values are stored apart, fused one after the other and group by group, and transposed,
of queries by turns with their gates, beside gated delta nets, and of a mixture with a dense layer and shared experts.
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

import peft
import torch
import transformers
from program import FIXTURES, Program, difference
from transformers import AutoModelForCausalLM

TOLERANCE = 2e-4
# Grouped products of torch want experts of other widths.
EAGER = {"experts_implementation": "eager"}
NAMES = [
    "llama_gqa_tied", "opt_untied", "phi3_gqa", "gpt_neox_sequential", "gpt2_tied", "qwen35_tied",
    "qwen2_moe_dense_between",
]


def logits(model, rows):
    with torch.no_grad():
        return [model(torch.tensor([row])).logits[0].float() for row in rows]


def check(program, source, work):
    rows = [row for row in json.loads((source / "tokens.json").read_text())["input_ids"] if len(row) > 1]
    examples = work / "examples.json"
    examples.write_text(json.dumps({"input_ids": rows}))
    flags = ["--steps", 3, "--learning-rate", 0.02, "--warmup", 0, "--adapter", work / "adapter", "--dtype", "f32"]
    program("recover", source, "-o", work / "out", "--examples", examples, "--eval", examples, *flags)
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **EAGER).eval()
    before = logits(base, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adapted = peft.PeftModel.from_pretrained(base, work / "adapter").eval()
    found = logits(adapted, rows)
    ours = program.logits(work / "out", rows)
    changed = difference(before, found)
    assert changed > 100 * TOLERANCE, f"the adapter changes the logits by {changed:.1e}, which shows nothing"
    merged = AutoModelForCausalLM.from_pretrained(work / "out", dtype=torch.float32, **EAGER).eval()
    errors = [difference(ours, found), difference(logits(merged, rows), found)]
    assert max(errors) < TOLERANCE, f"merged and adapted differ by {errors}"
    return max(errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the slicegpt-gpu to test")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these models alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    program = Program(arguments.binary)
    begin = time.monotonic()
    names = arguments.names or NAMES
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            error = check(program, FIXTURES / name, Path(work))
        print(f"{name:34} ok  largest error {error:.0e}", flush=True)
    print(f"{len(names)} models, {time.monotonic() - begin:.0f} s; peft {peft.__version__}")


if __name__ == "__main__":
    main()
