# Written by slicegpt-gpu (MIT licence).
from transformers import Qwen2MoeConfig


class PrunedQwen2MoeConfig(Qwen2MoeConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_qwen2_moe"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
