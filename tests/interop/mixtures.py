#!/usr/bin/env python3
"""Do transformers and llama.cpp load mixtures that have lost experts, and compute with them as the program does?

    python tests/interop/mixtures.py --binary target/release/slicegpt-gpu

Parity fixtures lose a third of their experts by `prune --experts`, two of them some, one with heads, by `compress`, which fits
what is left; those in MXFP4 stay so. What is written is an ordinary checkpoint, which transformers loads without code of ours: all logits are the
program's, greedy continuations too, with a cache and without; saved by transformers in either form, with each expert by
itself or all in one tensor, it is the same model again. So is one whose layers have different numbers of experts, by the Python
files that come with it. Exported, llama.cpp computes the same from it, and the program
reads the file as the same model.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

# Files beside this one may be called like packages.
HERE = Path(__file__).resolve().parent
sys.path = [str(HERE / "support")] + [path for path in sys.path if Path(path or ".").resolve() != HERE]
os.environ["HF_HUB_OFFLINE"] = "1"
_spec = importlib.util.spec_from_file_location("export_checks", HERE / "gguf.py")
export_checks = importlib.util.module_from_spec(_spec)
sys.modules["export_checks"] = export_checks
_spec.loader.exec_module(export_checks)

import numpy as np
import torch
import transformers
from compare import close, logits, same_continuations, same_padded, train
from program import FIXTURES, Program
from transformers import AutoModelForCausalLM

# By fixture: the class that loads it, and whether llama.cpp has a form for it.
FIXTURES_CUT = {
    "qwen3_moe_normalised": ("Qwen3MoeForCausalLM", True),
    "qwen3_moe_dense_between": ("Qwen3MoeForCausalLM", False),
    "qwen3_moe_plain_tied": ("Qwen3MoeForCausalLM", False),
    "qwen2_moe_plain": ("Qwen2MoeForCausalLM", True),
    "mixtral_top_2": ("MixtralForCausalLM", True),
    "olmoe_plain": ("OlmoeForCausalLM", False),
    "gpt_oss_plain": ("GptOssForCausalLM", False),
    "gpt_oss_mxfp4": ("GptOssForCausalLM", False),
}
EAGER = dict(attn_implementation="eager", experts_implementation="eager")


def load(directory, **options):
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, dtype=torch.float32, **EAGER, **options)
    assert not any(info.values()), f"not loaded as stored: {info}"
    # Otherwise continuations would end before they show anything.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


# By fixture: what cuts it in place of that.
COMPRESSED = {
    "qwen3_moe_plain_tied": ("--axes", "experts,heads", "--keep", "70%", "--effort", "quick"),
    "gpt_oss_plain": ("--axes", "experts", "--target-parameters", "-20%", "--effort", "quick"),
}


def check(program, name, work):
    class_name, in_llama_cpp = FIXTURES_CUT[name]
    source, directory = FIXTURES / name, work / "smaller"
    tokens = source / "tokens.json"
    rows = json.loads(tokens.read_text())["input_ids"]
    if name in COMPRESSED:
        program("compress", source, "-o", directory, "--calibration", tokens, *COMPRESSED[name])
    else:
        program("prune", source, "-o", directory, "--experts", "0.34", "--examples", tokens)
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, directory))
    counts = [config.get("num_experts", config.get("num_local_experts")) for config in (before, after)]
    assert counts[1] < counts[0] and after["model_type"] == before["model_type"], counts
    # Experts in MXFP4 stay so: without kernels for that, transformers dequantises them.
    assert after.get("quantization_config") == before.get("quantization_config"), after
    ours = program.logits(directory, rows)
    model = load(directory)
    assert type(model).__name__ == class_name, type(model)
    worst = close(ours, logits(model, rows), "transformers", 1e-5)
    same_continuations(program, directory, model, [rows[1], rows[2], rows[0][:9]])
    # What it has dequantised, transformers saves in the original form as floats under the names of blocks, and cannot load.
    for form in (False,) if "quantization_config" in after else (True, False):
        saved = work / f"saved-{form}"
        model.save_pretrained(saved, save_original_format=form)
        worst = max(worst, close(program.logits(saved, rows), ours, f"saved by transformers, {form}", 1e-5))
    if in_llama_cpp:
        file = work / "smaller.gguf"
        program("export", directory, "--format", "gguf", "--type", "f32", "-o", file)
        with export_checks.Model(file) as loaded:
            found = [torch.from_numpy(np.array(loaded.logits(ids))) for ids in rows]
        worst = max(worst, close(ours, found, "llama.cpp", 1e-5))
        program("logits", file, "--tokens", tokens, "-o", work / "read.safetensors")
        read = export_checks.safetensors(work / "read.safetensors")
        found = [torch.from_numpy(np.array(read[f"logits.{row}"])) for row in range(len(rows))]
        worst = max(worst, close(ours, found, "read from the file", 1e-5))
    return f"{counts[0]} experts to {counts[1]}, largest error {worst:.0e}"


# Those whose layers lose different numbers of experts; some of one have no experts at all.
BY_LAYER = ["qwen3_moe_dense_between", "qwen2_moe_plain", "mixtral_top_2", "olmoe_plain", "gpt_oss_plain", "gpt_oss_mxfp4"]
# What leaves of the experts, where another share would leave the same of each layer.
SHARES = {"gpt_oss_mxfp4": 0.4}


def check_by_layer(program, name, work):
    """The same where layers differ, by the Python files that come with it; and it learns."""
    source, directory = FIXTURES / name, work / "smaller"
    tokens = source / "tokens.json"
    rows = json.loads(tokens.read_text())["input_ids"]
    program("prune", source, "-o", directory, "--experts", SHARES.get(name, 0.3), "--global", "--examples", tokens)
    config = json.loads((directory / "config.json").read_text())
    counts = [layer.get("num_experts") for layer in config["pruning"]["layers"]]
    assert len(set(filter(None, counts))) > 1, f"layers that do not differ show nothing: {counts}"
    ours = program.logits(directory, rows)
    model = load(directory, trust_remote_code=True)
    worst = close(ours, logits(model, rows), "transformers", 1e-5)
    prompts = [rows[1], rows[2], rows[0][:9]]
    same_padded(model, prompts, same_continuations(program, directory, model, prompts))
    for form in (True, False):
        saved = work / f"saved-{form}"
        model.save_pretrained(saved, save_original_format=form)
        worst = max(worst, close(ours, logits(load(saved, trust_remote_code=True), rows), f"saved and loaded, {form}", 1e-5))
        worst = max(worst, close(program.logits(saved, rows), ours, f"saved by transformers, {form}", 1e-5))
    train(model, rows)
    return f"{counts} experts, largest error {worst:.0e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the slicegpt-gpu to test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    program = Program(arguments.binary)
    failed = []
    for name, how in [*((name, check) for name in FIXTURES_CUT), *((name, check_by_layer) for name in BY_LAYER)]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as work:
            try:
                print(f"ok    {name}: {how(program, name, Path(work))}, {time.monotonic() - began:.1f} s", flush=True)
            except Exception as reason:
                failed.append(name)
                print(f"FAIL  {name}: {type(reason).__name__}: {reason}", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
