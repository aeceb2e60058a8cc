# Written by slicegpt-gpu (MIT licence).
from transformers.models.granite.modeling_granite import GraniteDecoderLayer, GraniteForCausalLM

from .configuration_sliced_granite import SlicedGraniteConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedGraniteDecoderLayer(SlicedGatedLayer, GraniteDecoderLayer):
    pass


class SlicedGraniteForCausalLM(SlicedGatedForCausalLM, GraniteForCausalLM):
    config_class = SlicedGraniteConfig
    layer_class = SlicedGraniteDecoderLayer
    _no_split_modules = ["SlicedGraniteDecoderLayer"]
