# Written by slicegpt-gpu (MIT licence).
from transformers import StableLmConfig


class SlicedStableLmConfig(StableLmConfig):
    """The config of the model before slicing, and the widths after it in `slicing`."""

    model_type = "sliced_stablelm"

    def __init__(self, slicing=None, **kwargs):
        # Embedding and head live in different bases, whatever the model did before.
        kwargs["tie_word_embeddings"] = False
        super().__init__(**kwargs)
        self.slicing = slicing
