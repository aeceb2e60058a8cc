# Written by slicegpt-gpu (MIT licence).
from transformers import GptOssConfig


class PrunedGptOssConfig(GptOssConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_gpt_oss"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
