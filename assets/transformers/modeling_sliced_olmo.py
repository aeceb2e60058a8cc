# Written by slicegpt-gpu (MIT licence).
from transformers.models.olmo.modeling_olmo import OlmoDecoderLayer, OlmoForCausalLM

from .configuration_sliced_olmo import SlicedOlmoConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedOlmoDecoderLayer(SlicedGatedLayer, OlmoDecoderLayer):
    pass


class SlicedOlmoForCausalLM(SlicedGatedForCausalLM, OlmoForCausalLM):
    config_class = SlicedOlmoConfig
    layer_class = SlicedOlmoDecoderLayer
    _no_split_modules = ["SlicedOlmoDecoderLayer"]
