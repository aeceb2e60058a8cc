# Written by slicegpt-gpu (MIT licence).
from transformers import SmolLM3Config


class PrunedSmolLM3Config(SmolLM3Config):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_smollm3"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
