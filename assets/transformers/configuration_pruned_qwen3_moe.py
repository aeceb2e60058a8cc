# Written by slicegpt-gpu (MIT licence).
from transformers import Qwen3MoeConfig


class PrunedQwen3MoeConfig(Qwen3MoeConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_qwen3_moe"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
