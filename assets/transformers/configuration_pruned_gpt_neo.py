# Written by slicegpt-gpu (MIT licence).
from transformers import GPTNeoConfig


class PrunedGPTNeoConfig(GPTNeoConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_gpt_neo"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
