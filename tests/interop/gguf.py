#!/usr/bin/env python3
"""Does llama.cpp compute from an exported GGUF file what the checkpoint computes?

    python tests/interop/gguf.py --binary target/release/slicegpt-gpu [--model DIR ...]

Needs xllamacpp (a build of llama.cpp), gguf, tokenizers, transformers and numpy, in the versions of requirements.txt. Writes to a temporary directory alone;
ends with 1 if anything disagrees.

  * Every parity fixture of an architecture that llama.cpp has: refused for the expected reason, or its logits agree with those of transformers
    that lie beside it, in f32; and perplexity agrees with `slicegpt-gpu eval` in f16 and q8_0.
  * Fixtures that are cut on each axis that llama.cpp can load: logits agree with the program's, in f32.
  * Those whose layers have been made to differ in size: logits agree with those of the program.
  * The demo model, that sliced in one basis, that compressed, and each --model: perplexity, and the tokens of difficult texts against the tokenizers library.
  * Small tokenizers of every kind that is exported, trained here: tokens again.
  * One of vocab.json and merges.txt: tokens as in transformers, ends of texts, special tokens and chat templates as llama.cpp's converter has them.
  * The gguf package reads the same tensors from each type of file, and dequantises q8_0 to within half a step.
"""

import argparse
import ctypes as c
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# This file has the name of the package, and must not be found in its place.
HERE = Path(__file__).resolve().parent
sys.path = [str(HERE / "support")] + [path for path in sys.path if Path(path or ".").resolve() != HERE]

import gguf
import numpy as np
import tokenizers
import xllamacpp
from prune import prune

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/parity"
DEMO = ROOT / "assets/demo"

# Fixtures that have to be refused, and a part of the reason.
REFUSED = {
    "llama_gelu": "silu",
    "llama_gelu_pytorch_tanh": "silu",
    "qwen3_bias": "bias",
    "qwen2_moe_dense_between": "experts",
    "qwen3_moe_dense_between": "bias",
    "qwen3_moe_every_second": "experts",
    "qwen3_moe_plain_tied": "divides the gates",
    "qwen3_moe_top_1": "divides the gates",
    "qwen3_moe_top_all": "divides the gates",
    "qwen3_moe_window": "divides the gates",
    "gemma_untied": "two",
    "gemma2_no_caps": "caps",
    "gemma2_final_cap": "caps",
    "gemma2_layer_types": "tanh",
    "gemma3_pattern": "window",
    "gemma3_local_theta": "two",
    "gemma3_multimodal": "window",
    "olmo2_tied": "bias",
}
# llama.cpp looks up gelu in a table of f16.
GELU = {"gemma_tied", "gemma_bf16", "gemma2_tied", "gemma3_tied"}
# A sliding window shorter than the rows is what llama.cpp has none of: within the window, logits agree.
WINDOWED = {"mistral_head_dim", "mistral_window", "qwen2_window", "qwen2_layer_types", "qwen2_old_config_window", "qwen3_window",
            "mixtral_tied_window"}

# Both compute in f32; ours agree with transformers to 1e-5 as well.
LOGITS = 1e-5
PERPLEXITY_F16 = 0.005

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "  two  spaces,   three,\tand a tab ",
    "lines\nof\n\ntext\r\n\r\nand more\n",
    "\n\n\n",
    " ",
    "Ünïcödé: straße, naïve, Ελληνικά, русский, 中文字符, 日本語, العربية, हिन्दी, 한국어",
    "emoji 🙂👩‍👩‍👧 and math ∑∞≠, quotes “so” ‘so’…",
    "don't WON'T I'll they've x=3.14159 and 1234567890 or 12,345",
    "snake_case camelCase <tag attr=\"1\"> {json: [1, 2]} // comment\n\tindented();",
    "trailing spaces   \n   leading",
    "a",
    "ab\u00a0cd\u200bef",
]


class Batch(c.Structure):
    _fields_ = [
        ("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p), ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)), ("seq_id", c.POINTER(c.POINTER(c.c_int32))), ("logits", c.POINTER(c.c_int8)),
    ]


class Parameters(c.Structure):
    """Parameters of a model or a context as llama.cpp passes them: by value, on the stack, where more room than they need does no harm."""

    _fields_ = [("words", c.c_uint32 * 256)]


def llama_library():
    """The C interface of llama.cpp, which the package's extension module exports."""
    (path,) = Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
    library = c.CDLL(str(path))
    for name, result, arguments in [
        ("llama_backend_init", None, []),
        ("llama_model_default_params", Parameters, []),
        ("llama_context_default_params", Parameters, []),
        ("llama_model_load_from_file", c.c_void_p, [c.c_char_p, Parameters]),
        ("llama_model_free", None, [c.c_void_p]),
        ("llama_model_get_vocab", c.c_void_p, [c.c_void_p]),
        ("llama_model_n_ctx_train", c.c_int32, [c.c_void_p]),
        ("llama_vocab_n_tokens", c.c_int32, [c.c_void_p]),
        ("llama_vocab_bos", c.c_int32, [c.c_void_p]),
        ("llama_vocab_eos", c.c_int32, [c.c_void_p]),
        ("llama_vocab_is_eog", c.c_bool, [c.c_void_p, c.c_int32]),
        ("llama_init_from_model", c.c_void_p, [c.c_void_p, Parameters]),
        ("llama_free", None, [c.c_void_p]),
        ("llama_batch_init", Batch, [c.c_int32, c.c_int32, c.c_int32]),
        ("llama_batch_free", None, [Batch]),
        ("llama_decode", c.c_int32, [c.c_void_p, Batch]),
        ("llama_get_logits_ith", c.POINTER(c.c_float), [c.c_void_p, c.c_int32]),
        ("llama_tokenize", c.c_int32,
         [c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.c_bool, c.c_bool]),
        ("llama_log_set", None, [c.c_void_p, c.c_void_p]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.llama_backend_init()
    return library


LLAMA = llama_library()
LOG = []
LOGGER = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda level, text, _: LOG.append(text.decode(errors="replace")))
LLAMA.llama_log_set(c.cast(LOGGER, c.c_void_p), None)


UNSPECIFIED = 2**32 - 1


def exactly(parameters, tokens):
    """Parameters of a context of so many tokens that computes in f32, by where the fields lie in the version that is pinned."""
    words = parameters.words
    # n_ctx, n_batch, n_ubatch
    for field in range(3):
        words[field] = max(tokens, 64)
    # Scaling of rotary embeddings, pooling, kind of attention, fused attention: the last rounds to f16 within, and is switched off.
    assert all(words[field] == UNSPECIFIED for field in range(10, 14)) and words[9] != UNSPECIFIED and words[14] != UNSPECIFIED, list(words[:40])
    words[13] = 0
    # The types of cached keys and values: the only two neighbours that are both f16, which is 1.
    f16 = gguf.GGMLQuantizationType.F16
    (first,) = [field for field in range(14, 40) if words[field] == f16 and words[field + 1] == f16]
    words[first] = words[first + 1] = gguf.GGMLQuantizationType.F32
    return parameters


class Model:
    """A GGUF file in llama.cpp."""

    def __init__(self, path):
        LOG.clear()
        self.model = LLAMA.llama_model_load_from_file(str(path).encode(), LLAMA.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}: " + "".join(LOG[-8:]))
        self.vocab = LLAMA.llama_model_get_vocab(self.model)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        LLAMA.llama_model_free(self.model)

    def logits(self, ids):
        """[tokens, vocab_size], of one row alone."""
        parameters = exactly(LLAMA.llama_context_default_params(), len(ids))
        context = LLAMA.llama_init_from_model(self.model, parameters)
        if not context:
            raise RuntimeError("no context: " + "".join(LOG[-8:]))
        batch = LLAMA.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        if LLAMA.llama_decode(context, batch) != 0:
            raise RuntimeError("llama.cpp does not decode: " + "".join(LOG[-8:]))
        width = LLAMA.llama_vocab_n_tokens(self.vocab)
        rows = [np.ctypeslib.as_array(LLAMA.llama_get_logits_ith(context, i), (width,)).copy() for i in range(len(ids))]
        LLAMA.llama_batch_free(batch)
        LLAMA.llama_free(context)
        return np.stack(rows)

    def perplexity(self, rows):
        means = []
        for ids in rows:
            logits = self.logits(ids)[:-1].astype(np.float64)
            top = logits.max(axis=1)
            total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            means.append((total - logits[np.arange(len(ids) - 1), ids[1:]]).mean())
        return math.exp(np.mean(means))

    def tokens(self, text, special=False):
        """As a user's text is read: with the tokens that go around it, special tokens within it as plain text, or as what they are."""
        data = text.encode()
        room = (c.c_int32 * (len(data) + 16))()
        count = LLAMA.llama_tokenize(self.vocab, data, len(data), room, len(room), True, special)
        return list(room[:count])


class Check:
    def __init__(self, binary, directory):
        self.binary, self.directory, self.failures, self.passed = binary, directory, [], 0

    def that(self, holds, claim):
        print(("ok    " if holds else "FAIL  ") + claim, flush=True)
        if holds:
            self.passed += 1
        else:
            self.failures.append(claim)

    def run(self, *arguments):
        return subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True, check=False)

    def export(self, model, kind, *more):
        path = self.directory / f"{Path(model).name}-{kind}.gguf"
        path.unlink(missing_ok=True)
        result = self.run("export", model, "--format", "gguf", "--type", kind, "-o", path, *more)
        if result.returncode != 0:
            raise RuntimeError(f"export {model}: {result.stderr.strip()}")
        return path

    def our_perplexity(self, model, rows):
        path = self.directory / "rows.json"
        path.write_text(json.dumps({"input_ids": rows}))
        result = self.run("eval", model, "--tokens", path, "--json")
        if result.returncode != 0:
            raise RuntimeError(f"eval {model}: {result.stderr.strip()}")
        return json.loads(result.stdout)["perplexity"]

    def perplexities(self, name, model, rows):
        ours = self.our_perplexity(model, rows)
        for kind in ("f16", "q8_0"):
            with Model(self.export(model, kind)) as loaded:
                theirs = loaded.perplexity(rows)
            difference = theirs / ours - 1
            claim = f"{name}: perplexity {ours:.4f}, llama.cpp {kind} {theirs:.4f} ({100 * difference:+.3f} %)"
            # q8_0 rounds weights by half of 1/127 of the largest of 32: what that costs is the model's affair, but not much.
            self.that(abs(difference) <= (PERPLEXITY_F16 if kind == "f16" else 0.03), claim)


def safetensors(path):
    """The f32 tensors of a file, by name."""
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", entry
        first, last = entry["data_offsets"]
        found[name] = np.frombuffer(data[8 + length + first:8 + length + last], "<f4").reshape(entry["shape"])
    return found


def save(path, tensors):
    """Writes f32 tensors as a safetensors file."""
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(np.ascontiguousarray(values).tobytes() for values in tensors.values()))


def our_logits(check, model, rows):
    """What the program computes, [tokens, vocab_size] for each row."""
    tokens, output = check.directory / "rows.json", check.directory / "ours.safetensors"
    tokens.write_text(json.dumps({"input_ids": rows}))
    result = check.run("logits", model, "--tokens", tokens, "-o", output, "--force")
    if result.returncode != 0:
        raise RuntimeError(f"logits {model}: {result.stderr.strip()}")
    found = safetensors(output)
    return [found[f"logits.{row}"] for row in range(len(rows))]


def apart(found, wanted):
    """The largest difference, relative to the largest magnitude of each row."""
    return max(np.abs(one - other).max() / np.abs(other).max() for one, other in zip(found, wanted, strict=True))


def fixtures(check):
    names = sorted(path.name for path in FIXTURES.iterdir() if path.name.split("_")[0] in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "mixtral"))
    assert len(names) >= 28, names
    for name in names:
        model = FIXTURES / name
        if name in REFUSED:
            result = check.run("export", model, "--format", "gguf", "-o", check.directory / "refused.gguf")
            expected = result.returncode == 2 and REFUSED[name] in result.stderr and not (check.directory / "refused.gguf").exists()
            check.that(expected, f"{name}: refused ({result.stderr.strip()})")
            continue
        rows = json.loads((model / "tokens.json").read_text())["input_ids"]
        expected = safetensors(model / "logits.safetensors")
        with Model(check.export(model, "f32")) as loaded:
            window = LLAMA.llama_model_n_ctx_train(loaded.model)
            longest = max(map(len, rows))
            check.that((window < longest) == (name in WINDOWED), f"{name}: context length {window}, longest row {longest}")
            worst = 0.0
            for row, ids in enumerate(rows):
                ids = ids[:window]
                wanted = expected[f"logits.{row}"][:window]
                worst = max(worst, np.abs(loaded.logits(ids) - wanted).max() / np.abs(wanted).max())
            allowed = 3e-3 if name in GELU else LOGITS
            check.that(worst <= allowed, f"{name}: logits of f32 differ by {worst:.1e} of the largest from those of transformers")
        check.perplexities(name, model, [ids[:window] for ids in rows if len(ids) > 1])


# What is cut, of which fixture.
CUTS = {
    "llama_gqa_tied": ["mlp", "heads", "kv-heads", "layers", "width"],
    "llama_mha_untied": ["mlp", "kv-heads", "layers", "width"],
    "mistral_no_window": ["heads", "width"],
    "qwen2_gqa_tied": ["heads", "kv-heads", "width"],
    "qwen3_tied": ["heads", "width"],
    "qwen3_untied": ["kv-heads", "layers", "width"],
    "olmo2_untied": ["mlp", "layers"],
}


def compressed(check):
    """What `compress` writes, each axis alone: logits of f32 are the program's own."""
    for name, axes in CUTS.items():
        rows = json.loads((FIXTURES / name / "tokens.json").read_text())["input_ids"]
        for axis in axes:
            output = check.directory / f"{name}-{axis}"
            tokens = check.directory / "calibration.json"
            tokens.write_text(json.dumps({"input_ids": rows[:2] * 4}))
            options = ["--axes", axis, "--keep", "97%", "--effort", "quick", "--calibration", tokens]
            done = check.run("compress", FIXTURES / name, "-o", output, *options)
            assert done.returncode == 0, done.stderr
            with Model(check.export(output, "f32")) as loaded:
                worst = apart([loaded.logits(ids) for ids in rows], our_logits(check, output, rows))
            check.that(worst <= LOGITS, f"{name}, {axis} cut: logits of f32 differ by {worst:.1e} of the largest from the program's")


def pruned(check):
    for name in ("llama_gqa_tied", "llama_rope_llama3", "llama_head_dim", "mistral_no_window"):
        model = check.directory / f"pruned-{name}"
        prune(FIXTURES / name, model)
        rows = json.loads((FIXTURES / name / "tokens.json").read_text())["input_ids"]
        with Model(check.export(model, "f32")) as loaded:
            worst = apart([loaded.logits(ids) for ids in rows], our_logits(check, model, rows))
        check.that(worst <= LOGITS, f"{name}, pruned by layer: logits of f32 differ by {worst:.1e} of the largest from the program's")
        check.perplexities(f"{name}, pruned", model, [ids for ids in rows if len(ids) > 1])


def same_tokens(check, name, loaded, directory):
    reference = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    different = [text for text in TEXTS if loaded.tokens(text) != reference.encode(text).ids]
    for text in different:
        print(f"      {text!r}: {loaded.tokens(text)} instead of {reference.encode(text).ids}")
    check.that(not different, f"{name}: {len(TEXTS)} texts become the same tokens")


def trained(check, model, text):
    name = Path(model).resolve().name
    directory = Path(model)
    reference = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    window = json.loads((directory / "config.json").read_text())["max_position_embeddings"]
    ids = reference.encode(text).ids
    rows = [ids[i:i + window] for i in range(0, min(len(ids), 24 * window) - window + 1, window)]
    assert rows, "too little text"
    check.perplexities(name, model, rows)
    with Model(check.export(model, "f16")) as loaded:
        same_tokens(check, name, loaded, directory)


def tokenizer_kinds():
    """Small tokenizers of each kind, with the name llama.cpp has for it."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

    end = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    start = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    capitals = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    ending = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    contracted = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + ending +
                  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + ending +
                  r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda words: [pre_tokenizers.Split(Regex(words), "isolated"), bare]
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = (DEMO / "calibration.txt").read_text()[:200_000]
    corpus = [text] + TEXTS * 5
    for name, cutters, whole, composed in [
        ("gpt-2", [plain], False, False),
        ("smollm", [pre_tokenizers.Digits(individual_digits=True), plain], False, False),
        ("llama-bpe", split(start + r"\p{N}{1,3}" + end), True, False),
        ("smaug-bpe", split(start + r"\p{N}{1,3}" + end), False, False),
        ("qwen2", split(start + r"\p{N}" + end), False, True),
        ("qwen35", split(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), False, True),
        ("tekken", split(capitals), True, False),
        # Of Phi-4-mini, whose expression is a removal of all between its matches, of BLOOM, and of Falcon.
        ("gpt-4o", [pre_tokenizers.Split(Regex(contracted), "removed", invert=True), bare], False, False),
        ("bloom", [pre_tokenizers.Split(Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+"), "isolated"), bare], False, False),
        ("falcon", [pre_tokenizers.Punctuation("contiguous"), plain, pre_tokenizers.Digits(individual_digits=False),
                    pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")], False, False),
    ]:
        tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=whole))
        if composed:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cutters) if len(cutters) > 1 else cutters[0]
        tokenizer.decoder = decoders.ByteLevel()
        special = ["<|begin|>", "<|end|>"]
        tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
            vocab_size=700, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        if name == "llama-bpe":
            tokenizer.post_processor = processors.Sequence([
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0)])])
        yield name, tokenizer
    # Sentence pieces: merges trained across letters, with all bytes as tokens.
    for name, prepend in [("sentence, a space before", True), ("sentence, none before", False)]:
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if prepend else "never")
        special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
        tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False))
        made = json.loads(tokenizer.to_str())
        made["model"].update(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        made["added_tokens"] = made["added_tokens"][:3]
        steps = [{"type": "Prepend", "prepend": "▁"}] if prepend else []
        made["normalizer"] = {"type": "Sequence", "normalizers": steps + [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
        made["pre_tokenizer"] = None
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(made))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
        yield name, tokenizer


def tokens(check):
    for number, (name, tokenizer) in enumerate(tokenizer_kinds()):
        directory = check.directory / f"tokenizer-{number}"
        shutil.copytree(FIXTURES / "llama_gqa_tied", directory)
        config = json.loads((directory / "config.json").read_text())
        size = tokenizer.get_vocab_size()
        # More rows than tokens, as many models have.
        config["vocab_size"] = size + 5
        (directory / "config.json").write_text(json.dumps(config))
        resize(directory / "model.safetensors", "model.embed_tokens.weight", size + 5)
        tokenizer.save(str(directory / "tokenizer.json"))
        path = check.export(directory, "f16")
        pre = gguf.GGUFReader(path).get_field("tokenizer.ggml.pre").contents()
        check.that(pre == ("default" if name.startswith("sentence") else name), f"tokenizer {name}: named {pre}")
        with Model(path) as loaded:
            same_tokens(check, f"tokenizer {name}", loaded, directory)


def special_tokens(check):
    """A tokenizer of vocab.json and merges.txt, with several ends and chat templates: against AutoTokenizer and llama.cpp's own converter."""
    from transformers import AutoTokenizer

    directory = check.directory / "files"
    shutil.copytree(FIXTURES / "llama_gqa_tied", directory)
    shared = json.loads((ROOT / "tests/fixtures/tokenizers/cases.json").read_text())["files"]
    (directory / "vocab.json").write_text(json.dumps(shared["vocab"], ensure_ascii=False))
    (directory / "merges.txt").write_text(shared["merges"])
    config = json.loads((directory / "config.json").read_text())
    config.update(vocab_size=320, bos_token_id=None, eos_token_id=302)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [302, 0, 304]}))
    resize(directory / "model.safetensors", "model.embed_tokens.weight", 320)
    token = lambda content: {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    names = ["<|start|>", "<|end|>", "<|pad|>", "<|turn|>"]
    (directory / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "GPT2Tokenizer", "bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|pad|>", "add_bos_token": True,
        "added_tokens_decoder": {str(301 + i): token(name) for i, name in enumerate(names)}}))
    (directory / "chat_template.jinja").write_text("default of {{ messages }}")
    (directory / "additional_chat_templates").mkdir()
    for name in ("rag", "tool-use"):
        (directory / f"additional_chat_templates/{name}.jinja").write_text(f"{name} of {{{{ messages }}}}")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    path = check.export(directory, "f16")
    reader = gguf.GGUFReader(path)
    field = lambda name: value.contents() if (value := reader.get_field(f"tokenizer.{name}")) else None
    with Model(path) as loaded:
        different = [text for text in TEXTS if loaded.tokens(text) != tokenizer(text).input_ids]
        check.that(not different, f"vocab.json and merges.txt: {len(TEXTS)} texts become the same tokens as in transformers {different}")
        ends = [id for id in range(320) if LLAMA.llama_vocab_is_eog(loaded.vocab, id)]
        check.that(ends == sorted([tokenizer.eos_token_id, 0, 304]), f"llama.cpp stops at {ends}")
    # What its converter reads, which looks into tokenizer.json alone: as transformers writes one for these files.
    saved = check.directory / "saved"
    tokenizer.save_pretrained(saved)
    (saved / "config.json").write_text(json.dumps(config))
    special = gguf.SpecialVocab(saved, n_vocab=320)
    ids = {name: field(f"ggml.{name}_token_id") for name in ("bos", "eos")} | {"unk": field("ggml.unknown_token_id"), "pad": field("ggml.padding_token_id")}
    check.that(ids == special.special_token_ids, f"special tokens {ids}, of the converter {special.special_token_ids}")
    check.that(field("ggml.add_bos_token") is True and special.add_special_token["bos"] is True, "a BOS token goes before texts")
    written = gguf.GGUFWriter(None, "llama")
    special.add_to_gguf(written, quiet=True)
    theirs = {key: value.value for key, value in written.kv_data[0].items() if "chat_template" in key}
    ours = {key: reader.get_field(key).contents() for key in reader.fields if "chat_template" in key}
    for templates in (theirs, ours):
        templates["tokenizer.chat_templates"] = sorted(templates["tokenizer.chat_templates"])
    check.that(ours == theirs and len(ours) == 4, f"chat templates {sorted(ours)}, of the converter {sorted(theirs)}")


def resize(path, name, rows):
    """Gives a f32 matrix of a safetensors file so many rows."""
    found = dict(safetensors(path))
    matrix = found[name]
    found[name] = np.resize(matrix, (rows, matrix.shape[1]))
    save(path, found)


def reread(check):
    """The gguf package's view of the same tensors in three types."""
    read = {kind: gguf.GGUFReader(check.export(DEMO, kind)) for kind in ("f32", "f16", "q8_0")}
    exact = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in read["f32"].tensors}
    for kind in ("f16", "q8_0"):
        worst, blocks = 0.0, 0
        for tensor in read[kind].tensors:
            values, wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type), exact[tensor.name]
            assert values.shape == wanted.shape, tensor.name
            if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0:
                # Half a step of the block, and the scale's own rounding to f16.
                step = np.abs(wanted.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
                worst = max(worst, (np.abs(values - wanted).reshape(-1, 32) / step).max())
                blocks += step.size
            else:
                # The demo is stored in f16: no rounding at all.
                worst = max(worst, np.abs(values - wanted).max())
        bound = 0.5 * (1 + 2**-10) + 127 * 2**-11 if blocks else 0.0
        check.that(worst <= bound and (kind == "f16" or blocks > 0), f"demo: gguf reads {kind} to within {worst:.3f} (allowed {bound:.3f})")


def no_vocabulary(check):
    model = FIXTURES / "qwen3_untied"
    with Model(check.export(model, "f32")) as loaded:
        size = json.loads((model / "config.json").read_text())["vocab_size"]
        check.that(LLAMA.llama_vocab_n_tokens(loaded.vocab) == size, "a model without tokenizer.json has its vocabulary size and no vocabulary")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", action="append", default=[], help="another model with a tokenizer, on whose own kind of text to compare")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        check = Check(os.path.abspath(arguments.binary), Path(directory))
        text = (DEMO / "heldout.txt").read_text()
        for step in (fixtures, compressed, pruned, tokens, special_tokens, reread, no_vocabulary):
            step(check)
        sliced = Path(directory) / "sliced"
        calibration = ["--calibration", DEMO / "calibration.txt", "--cal-nsamples", "8"]
        subprocess.run([check.binary, "run", DEMO, "--basis", "shared", *calibration, "-o", sliced, "--json"], check=True, capture_output=True)
        small = Path(directory) / "small"
        subprocess.run([check.binary, "compress", DEMO, "--effort", "quick", *calibration, "-o", small, "--json"], check=True, capture_output=True)
        for model in [DEMO, sliced, small, *arguments.model]:
            trained(check, model, text)
    print(f"{check.passed} of {check.passed + len(check.failures)} agree")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
