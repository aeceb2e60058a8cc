# Written by slicegpt-gpu (MIT licence).
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3ForCausalLM

from .configuration_sliced_qwen3 import SlicedQwen3Config
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedQwen3DecoderLayer(SlicedGatedLayer, Qwen3DecoderLayer):
    pass


class SlicedQwen3ForCausalLM(SlicedGatedForCausalLM, Qwen3ForCausalLM):
    config_class = SlicedQwen3Config
    layer_class = SlicedQwen3DecoderLayer
    _no_split_modules = ["SlicedQwen3DecoderLayer"]
