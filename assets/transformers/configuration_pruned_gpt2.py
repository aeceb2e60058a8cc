# Written by slicegpt-gpu (MIT licence).
from transformers import GPT2Config


class PrunedGPT2Config(GPT2Config):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_gpt2"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
