"""Running slicegpt-gpu, and what the tests compare."""

import json
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "parity"
DEMO = ROOT / "assets" / "demo"


def dense_fixtures():
    """Those that are no mixtures of experts, of which only `prune --experts` makes smaller ones. And none with longrope:
    what small models continue past the length at which its factors change is not compared here."""
    is_mixture = lambda path: "num_experts_per_tok" in json.loads((path / "config.json").read_text())
    paths = (path for path in FIXTURES.iterdir() if (path / "config.json").is_file() and "longrope" not in path.name)
    return sorted(path for path in paths if not is_mixture(path))


class Program:
    """The program at a path; whatever it refuses stops the test."""

    def __init__(self, binary):
        self.binary = str(Path(binary).resolve())

    def __call__(self, *arguments):
        command = [self.binary, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def slice(self, model, output, tokens, *options):
        """Slices a model, calibrated on a token file."""
        self("run", model, "-o", output, "--force", "--calibration", tokens, *options)

    def logits(self, model, rows):
        """The logits of each row of token ids, [tokens, vocab_size]."""
        tokens, file = Path(model) / "rows.tmp.json", Path(model) / "logits.tmp.safetensors"
        write_tokens(tokens, rows)
        self("logits", model, "--tokens", tokens, "-o", file)
        tensors = load_file(file)
        tokens.unlink()
        file.unlink()
        return [tensors[f"logits.{row}"] for row in range(len(rows))]


def write_tokens(path, rows):
    Path(path).write_text(json.dumps({"input_ids": rows}) + "\n")


def random_rows(vocab_size, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab_size, (length,), generator=generator).tolist() for length in lengths]


def difference(ours, theirs):
    """The largest difference, relative to the largest magnitude; infinite where anything is not finite."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
        error = ((a.double() - b.double()).abs().max() / a.double().abs().max()).item()
        worst = max(worst, error if error == error else float("inf"))
    return worst
