# Written by slicegpt-gpu (MIT licence).
from transformers import MinistralConfig


class PrunedMinistralConfig(MinistralConfig):
    """The config of the dense model, and the sizes of each layer in `pruning`."""

    model_type = "pruned_ministral"

    def __init__(self, pruning=None, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning
