# Written by slicegpt-gpu (MIT licence).
from transformers import Qwen3_5TextConfig


class PrunedQwen3_5TextConfig(Qwen3_5TextConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_qwen3_5_text"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
