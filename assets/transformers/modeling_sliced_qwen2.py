# Written by slicegpt-gpu (MIT licence).
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2ForCausalLM

from .configuration_sliced_qwen2 import SlicedQwen2Config
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedQwen2DecoderLayer(SlicedGatedLayer, Qwen2DecoderLayer):
    pass


class SlicedQwen2ForCausalLM(SlicedGatedForCausalLM, Qwen2ForCausalLM):
    config_class = SlicedQwen2Config
    layer_class = SlicedQwen2DecoderLayer
    _no_split_modules = ["SlicedQwen2DecoderLayer"]
