#!/usr/bin/env python3
"""Do the tokenizers that go along with an output load in transformers, and make the same tokens as those of the originals?

    python tests/interop/companions.py --binary target/release/slicegpt-gpu

Needs transformers and torch in the versions of requirements.txt. Writes to a temporary directory alone; ends with 1 if anything
disagrees. A small model of each family is given every arrangement of tokenizer files of its family that lies in
tests/fixtures/tokenizers, and sliced with a basis per block, whose output has a `model_type` of its own: the class of the tokenizer,
which the original's `model_type` may have chosen, must be the same.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

import transformers
from program import FIXTURES, ROOT, Program
from transformers import AutoTokenizer

transformers.logging.set_verbosity_error()

# A fixture of each family whose width is large enough to be cut.
MODELS = {
    "llama": "llama_gqa_tied", "mistral": "mistral_window", "qwen2": "qwen2_gqa_tied", "qwen3": "qwen3_untied", "phi": "phi_gqa",
    "phi3": "phi3_gqa", "opt": "opt_relu", "gpt2": "gpt2_tied", "gpt_neox": "gpt_neox_parallel", "qwen3_5_text": "qwen35_wide",
}


def place(directory, files, shared):
    for name, content in files.items():
        content = shared.get(content, content) if isinstance(content, str) else content
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")


def same(program, case, shared, texts, work):
    """Whether the output's tokenizer is the original's."""
    model, output = work / "model", work / "output"
    shutil.copytree(FIXTURES / MODELS[case["model_type"]], model)
    named = case["files"]["config.json"].get("tokenizer_class")
    config = json.loads((model / "config.json").read_text())
    if named:
        config["tokenizer_class"] = named
    (model / "config.json").write_text(json.dumps(config))
    place(model, {name: content for name, content in case["files"].items() if name != "config.json"}, shared)
    program.slice(model, output, model / "tokens.json")
    before = AutoTokenizer.from_pretrained(model)
    after = AutoTokenizer.from_pretrained(output, trust_remote_code=True)
    assert json.loads((output / "config.json").read_text())["model_type"].startswith("sliced_")
    same_class = type(before).__name__ == type(after).__name__
    return same_class and before.chat_template == after.chat_template and before(texts)["input_ids"] == after(texts)["input_ids"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    program = Program(parser.parse_args().binary)
    fixture = json.loads((ROOT / "tests/fixtures/tokenizers/cases.json").read_text(encoding="utf-8"))
    texts = [text for text in fixture["texts"] if text]
    failed = 0
    for case in fixture["cases"]:
        if "error" in case:
            continue
        with tempfile.TemporaryDirectory() as directory:
            holds = same(program, case, fixture["files"], texts, Path(directory))
        print(("ok    " if holds else "FAIL  ") + case["name"], flush=True)
        failed += not holds
    print(f"{failed} outputs have another tokenizer" if failed else "every output has the tokenizer of its original")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
