#!/usr/bin/env python3
"""Does llama.cpp compute from the GGUF files of other families than llama's what the checkpoints compute?

    python tests/interop/gguf_families.py --binary target/release/slicegpt-gpu

Needs what tests/interop/gguf.py needs. Writes to a temporary directory alone; ends with 1 if anything disagrees.

  * Every parity fixture of these families: refused for the expected reason, or its logits in f32 agree with those of transformers that lie beside it;
    and the perplexity of some, in f16 and q8_0, with that of `slicegpt-gpu eval`.
  * Fixtures with other configs, for what no fixture has: logits agree with the program's.
  * Some that `compress` made smaller: logits agree with the program's.
  * Special tokens take the spaces after them where those of the tokenizer do, whatever the model is called.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("export_checks", HERE / "gguf.py")
export_checks = importlib.util.module_from_spec(_spec)
sys.modules["export_checks"] = export_checks
_spec.loader.exec_module(export_checks)

import gguf
import tokenizers
from export_checks import FIXTURES, LLAMA, LOGITS, Check, Model, apart, our_logits, safetensors, save

# By what the names of fixtures begin with: the fixture whose perplexity is compared, of some.
FAMILIES = {
    "phi3": "phi3_gqa", "smollm3": None, "granite": "granite_untied", "gpt2": "gpt2_n_inner", "starcoder2": None, "gpt_neox": None, "phi": None,
    "stablelm": "stablelm_qk_layernorm", "falcon": None, "olmo": None, "cohere": None, "olmoe": None, "mpt": None, "bloom": "bloom_tied", "qwen35": "qwen35_one_width",
}
# Fixtures that have to be refused, and a part of the reason.
REFUSED = {
    "smollm3_interval_2": "every 4th", "smollm3_listed": "every 4th", "gpt2_gelu": "tanh", "gpt2_relu": "tanh", "gpt2_inverse_layer": "scales attention",
    "gpt2_unscaled": "scales attention", "starcoder2_head_dim": "one width", "starcoder2_window": "tanh",
    "gpt_neox_odd_rotary": "odd number", "phi_qk_layernorm": "norms of queries",
    "stablelm_qk_sequential": "silu", "falcon_alibi_parallel": "alibi", "falcon_multi_head": "bias", "falcon_new": "bias", "falcon_rw": "parallel_attn",
    "olmo_untied": "bias", "cohere_qk_norm": "64 layers", "cohere_untied": "two", "olmoe_normalised_tied": "bias", "olmoe_plain": "one width", "mpt_clip": "scales attention",
    "qwen35_bf16": "one width", "qwen35_interval": "one width", "qwen35_multimodal": "one width", "qwen35_tied": "bias", "qwen35_wide": "nth",
}
# Its gelu is a table of f16 of the tanh approximation, which it also takes for those with the error function.
GELU = {"gpt2", "starcoder2", "gpt_neox", "phi", "falcon", "mpt", "bloom"}
# A window that it does not know ends the context.
WINDOWED = {"phi3_window", "smollm3_window"}
# Fixtures with other fields in their configs: a name, the fixture, the fields, and how often its layers are there.
CHANGED = [
    ("falcon_new without biases", "falcon_new", {"bias": False}, 1),
    ("mpt_clip with its own scale", "mpt_clip", {"attn_config.softmax_scale": None}, 1),
    ("olmoe as llama.cpp has it", "olmoe_normalised_tied", {"attention_bias": False, "norm_topk_prob": False}, 1),
    ("phi3_longrope within its original length", "phi3_longrope", {"original_max_position_embeddings": 512, "max_position_embeddings": 1024}, 1),
    ("phi3_longrope_factor within its original length", "phi3_longrope_factor", {"original_max_position_embeddings": 512, "max_position_embeddings": 1024}, 1),
    ("cohere_qk_norm with 64 layers", "cohere_qk_norm", {"num_hidden_layers": 64}, 32),
    ("granite with linear scaling", "granite_untied", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}, 1),
    ("olmo2 with a tied head", "olmo2_tied", {"attention_bias": False}, 1),
    ("qwen2_moe with a tied head", "qwen2_moe_plain", {"tie_word_embeddings": True}, 1),
    ("smollm3 with yarn", "smollm3_interval", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 500.0}}, 1),
]
# What is cut, of which fixture, and what llama.cpp takes the result for.
CUTS = [
    ("phi3_gqa", "width", "llama"), ("phi3_tied", "kv-heads", "llama"), ("granite_untied", "width", "granite"),
    ("gpt2_n_inner", "mlp", "gpt2"), ("falcon_new_shared", "mlp", "falcon"),
    ("qwen35_one_width", "mlp", "qwen35"), ("qwen35_one_width", "width", "qwen35"),
]


def family(name):
    return max((start for start in FAMILIES if name.startswith(f"{start}_")), key=len, default=None)


def allowed(kind):
    return 3e-3 if kind in GELU else LOGITS


def fixtures(check):
    for model in sorted(FIXTURES.iterdir()):
        name, kind = model.name, family(model.name)
        if kind is None:
            continue
        if name in REFUSED:
            result = check.run("export", model, "--format", "gguf", "-o", check.directory / "refused.gguf")
            expected = result.returncode == 2 and REFUSED[name] in result.stderr and not (check.directory / "refused.gguf").exists()
            check.that(expected, f"{name}: refused ({result.stderr.strip().splitlines()[-1]})")
            continue
        rows = json.loads((model / "tokens.json").read_text())["input_ids"]
        logits = safetensors(model / "logits.safetensors")
        with Model(check.export(model, "f32")) as loaded:
            window = LLAMA.llama_model_n_ctx_train(loaded.model)
            check.that((window < max(map(len, rows))) == (name in WINDOWED), f"{name}: context length {window}")
            # llama.cpp takes the factors of long texts for all of them in a context that is long.
            kept = [row for row, ids in enumerate(rows) if "longrope" not in name or len(ids) > 32]
            worst = apart([loaded.logits(rows[row][:window]) for row in kept], [logits[f"logits.{row}"][:window] for row in kept])
        check.that(worst <= allowed(kind), f"{name}: logits of f32 differ by {worst:.1e} of the largest from those of transformers")
        if name == FAMILIES[kind]:
            check.perplexities(name, model, [ids[:window] for ids in rows if len(ids) > 1])


def same_logits(check, name, model, kind, rows):
    with Model(check.export(model, "f32")) as loaded:
        worst = apart([loaded.logits(ids) for ids in rows], our_logits(check, model, rows))
    check.that(worst <= allowed(kind), f"{name}: logits of f32 differ by {worst:.1e} of the largest from the program's")


def changed(check):
    for number, (name, fixture, fields, times) in enumerate(CHANGED):
        model = check.directory / f"changed-{number}"
        shutil.copytree(FIXTURES / fixture, model)
        config = json.loads((model / "config.json").read_text())
        for field, value in fields.items():
            *sections, last = field.split(".")
            place = config
            for section in sections:
                place = place[section]
            place[last] = value
        (model / "config.json").write_text(json.dumps(config))
        tensors = safetensors(model / "model.safetensors")
        for tensor, values in list(tensors.items()):
            if not config.get("attention_bias", True) and "self_attn" in tensor and tensor.endswith("bias") or config.get("bias") is False and re.search(r"(query_key_value|dense\w*)\.bias", tensor):
                del tensors[tensor]
            elif tensor == "lm_head.weight" and config.get("tie_word_embeddings"):
                del tensors[tensor]
            elif (layer := re.match(r"(.*layers\.)(\d+)(\..*)", tensor)) and times > 1:
                count = config["num_hidden_layers"] // times
                for again in range(1, times):
                    tensors[f"{layer[1]}{int(layer[2]) + again * count}{layer[3]}"] = values
        save(model / "model.safetensors", tensors)
        rows = json.loads((model / "tokens.json").read_text())["input_ids"]
        same_logits(check, name, model, family(fixture), rows)


def compressed(check):
    for fixture, axis, architecture in CUTS:
        output, tokens = check.directory / f"{fixture}-{axis}", check.directory / "calibration.json"
        rows = json.loads((FIXTURES / fixture / "tokens.json").read_text())["input_ids"]
        tokens.write_text(json.dumps({"input_ids": rows[:2] * 4}))
        options = ["--axes", axis, "--keep", "95%", "--effort", "quick", "--calibration", tokens]
        done = check.run("compress", FIXTURES / fixture, "-o", output, *options)
        assert done.returncode == 0, done.stderr
        long = [ids for ids in rows if len(ids) > 32]
        same_logits(check, f"{fixture}, {axis} cut", output, family(fixture), long)
        found = gguf.GGUFReader(check.directory / f"{output.name}-f32.gguf").get_field("general.architecture").contents()
        check.that(found == architecture, f"{fixture}, {axis} cut: is a {found}")


def spaces(check):
    """Special tokens that take the spaces after them, as those of Phi-3 do: llama.cpp goes by the name of the model."""
    tokenizer = next(tokenizer for name, tokenizer in export_checks.tokenizer_kinds() if name == "sentence, a space before")
    made = json.loads(tokenizer.to_str())
    first = tokenizer.get_vocab_size()
    more = ["<|endoftext|>", "<|user|>", "<|end|>"]
    made["added_tokens"] += [dict(made["added_tokens"][0], id=first + at, content=content) for at, content in enumerate(more)]
    texts = ["<|user|>\nhello <|end|>\n<|user|>  two", "<|end|> <|user|>", "a <|endoftext|> b"]
    for strips, name in [(True, "small"), (True, "my-Phi-3"), (False, "other-phi3")]:
        for token in made["added_tokens"]:
            token["rstrip"] = strips and token["content"] in ("</s>", "<|user|>", "<|end|>")
        model = check.directory / name
        shutil.copytree(FIXTURES / "phi3_gqa", model)
        config = json.loads((model / "config.json").read_text())
        config["vocab_size"] = first + len(more)
        (model / "config.json").write_text(json.dumps(config))
        for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
            export_checks.resize(model / "model.safetensors", tensor, config["vocab_size"])
        (model / "tokenizer.json").write_text(json.dumps(made))
        reference = tokenizers.Tokenizer.from_str(json.dumps(made))
        with Model(check.export(model, "f16")) as loaded:
            different = [(text, loaded.tokens(text, special=True), reference.encode(text).ids) for text in texts]
        different = [found for found in different if found[1] != found[2]]
        check.that(not different, f"{name}: spaces after special tokens {'are' if strips else 'are not'} taken {different or ''}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--only", action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        check = Check(os.path.abspath(arguments.binary), Path(directory))
        for step in (fixtures, changed, compressed, spaces):
            if not arguments.only or step.__name__ in arguments.only:
                step(check)
    print(f"{check.passed} of {check.passed + len(check.failures)} agree")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
