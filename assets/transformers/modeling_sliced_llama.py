# Written by slicegpt-gpu (MIT licence).
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM

from .configuration_sliced_llama import SlicedLlamaConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedLlamaDecoderLayer(SlicedGatedLayer, LlamaDecoderLayer):
    pass


class SlicedLlamaForCausalLM(SlicedGatedForCausalLM, LlamaForCausalLM):
    config_class = SlicedLlamaConfig
    layer_class = SlicedLlamaDecoderLayer
    _no_split_modules = ["SlicedLlamaDecoderLayer"]
