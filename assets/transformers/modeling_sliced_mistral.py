# Written by slicegpt-gpu (MIT licence).
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralForCausalLM

from .configuration_sliced_mistral import SlicedMistralConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedMistralDecoderLayer(SlicedGatedLayer, MistralDecoderLayer):
    pass


class SlicedMistralForCausalLM(SlicedGatedForCausalLM, MistralForCausalLM):
    config_class = SlicedMistralConfig
    layer_class = SlicedMistralDecoderLayer
    _no_split_modules = ["SlicedMistralDecoderLayer"]
