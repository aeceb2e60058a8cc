#!/usr/bin/env python3
"""Does transformers load what `slicegpt-gpu compress` writes as the ordinary model that it is said to be?

    python tests/interop/compress.py --binary target/release/slicegpt-gpu [NAME ...]

Models of every architecture are cut on every axis that they have, each alone, and on several at once. The result is loaded by
AutoModelForCausalLM, without trust_remote_code, and held against the program: all logits, and greedy continuations. Axes that a
class of transformers has no form for are refused.
"""

import argparse
import json
import os
import subprocess
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
from compare import same_model
from program import FIXTURES, Program, random_rows, write_tokens
from transformers import AutoModelForCausalLM

# Every architecture, with tied heads and others, grouped queries and others, biases and none.
SOURCES = (
    "llama_gqa_tied llama_mha_untied llama_bias mistral_no_window qwen2_gqa_tied qwen2_window qwen3_tied qwen3_bias smollm3_listed granite_tied "
    "qwen35_tied phi3_tied phi3_gqa gemma2_layer_types gpt_neo_global phi_gqa opt_relu opt_untied gpt2_tied gptj_tied gpt_neox_parallel gpt_neox_sequential starcoder2_tied"
).split()
AXES = ("width", "mlp", "heads", "kv-heads", "layers")
# Axes that these cannot be cut on, beside those of which there is one.
GATED, PLAIN = set(), {"width", "heads", "kv-heads"}
REFUSED = {
    "llama": GATED, "mistral": GATED, "qwen2": GATED, "qwen3": GATED, "smollm3": GATED, "granite": GATED,
    "qwen3_5_text": GATED, "phi3": GATED, "phi": GATED, "opt": PLAIN, "gpt2": PLAIN, "gptj": PLAIN, "gpt_neox": PLAIN, "starcoder2": {"width"},
    "gemma2": {"width"}, "olmo2": {"width", "heads", "kv-heads"}, "cohere": {"width"}, "gpt_neo": PLAIN, "falcon": PLAIN,
}


def allowed(config):
    """The axes that a model can be cut on."""
    heads = config.get("num_attention_heads", config.get("n_head"))
    shared = config.get("num_key_value_heads") or heads
    one = ({"heads"} if heads == shared else set()) | ({"kv-heads"} if shared == 1 else set())
    return set(AXES) - REFUSED[config["model_type"]] - one


def smaller(program, source, output, calibration, *options):
    """Compresses a model; returns why not, if it is refused."""
    command = [program.binary, "compress", source, "-o", output, "--force", "--calibration", calibration, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode == 2:
        return done.stderr.strip().splitlines()[-1]
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return None


def check_output(program, output, rows):
    """An ordinary checkpoint, in both implementations of attention; returns the largest relative error of its logits."""
    config = json.loads((output / "config.json").read_text())
    assert "auto_map" not in config and not list(output.glob("*.py")), "code comes with it"

    def load(**options):
        model, info = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32, output_loading_info=True, **options)
        assert not any(info.values()), f"not loaded as stored: {info}"
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        return model.eval()

    return same_model(program, output, config, load, rows)[2]


def check_model(program, source, work):
    """Cuts a model on each axis and on all; returns what was cut, and the largest relative error."""
    config = json.loads((source / "config.json").read_text())
    rows = json.loads((source / "tokens.json").read_text())["input_ids"]
    calibration, output, worst, cut = work / "calibration.json", work / "smaller", 0.0, []
    write_tokens(calibration, random_rows(config["vocab_size"], (32, 32, 32, 32, 20, 7), seed=len(source.name)))
    for axis in AXES:
        why = smaller(program, source, output, calibration, "--axes", axis, "--keep", "97%", "--effort", "quick")
        if axis not in allowed(config):
            assert why, f"{axis} can be cut, and should not be"
            continue
        assert not why, f"{axis}: {why}"
        try:
            worst = max(worst, check_output(program, output, rows))
        except Exception as reason:
            raise AssertionError(f"{axis}: {reason}") from reason
        cut.append(axis)
    why = smaller(program, source, output, calibration, "--keep", "80%")
    assert not why, why
    return cut, max(worst, check_output(program, output, rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, help="the slicegpt-gpu to test")
    parser.add_argument("names", nargs="*", metavar="NAME", help="the models whose names start so, instead of some of every architecture")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    program = Program(arguments.binary)
    sources = sorted(path for path in FIXTURES.iterdir() if (path / "config.json").is_file())
    wanted = [source for source in sources if source.name.startswith(tuple(arguments.names))]
    chosen = wanted if arguments.names else [FIXTURES / name for name in SOURCES]
    assert chosen, f"no model is called {arguments.names}"
    failed, begin = [], time.monotonic()
    for source in chosen:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as work:
            try:
                cut, error = check_model(program, source, Path(work))
            except Exception as reason:
                failed.append(source.name)
                print(f"{source.name:34} FAILED: {type(reason).__name__}: {reason}", flush=True)
                continue
        print(f"{source.name:34} ok  largest error {error:.0e}  {time.monotonic() - start:4.1f} s  {' '.join(cut)}", flush=True)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} models, {time.monotonic() - begin:.0f} s")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
