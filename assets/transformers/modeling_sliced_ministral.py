# Written by slicegpt-gpu (MIT licence).
from transformers.models.ministral.modeling_ministral import MinistralDecoderLayer, MinistralForCausalLM

from .configuration_sliced_ministral import SlicedMinistralConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedMinistralDecoderLayer(SlicedGatedLayer, MinistralDecoderLayer):
    pass


class SlicedMinistralForCausalLM(SlicedGatedForCausalLM, MinistralForCausalLM):
    config_class = SlicedMinistralConfig
    layer_class = SlicedMinistralDecoderLayer
    _no_split_modules = ["SlicedMinistralDecoderLayer"]
