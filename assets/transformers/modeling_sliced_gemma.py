# Written by slicegpt-gpu (MIT licence).
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer, GemmaForCausalLM

from .configuration_sliced_gemma import SlicedGemmaConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedGemmaDecoderLayer(SlicedGatedLayer, GemmaDecoderLayer):
    pass


class SlicedGemmaForCausalLM(SlicedGatedForCausalLM, GemmaForCausalLM):
    config_class = SlicedGemmaConfig
    layer_class = SlicedGemmaDecoderLayer
    _no_split_modules = ["SlicedGemmaDecoderLayer"]
