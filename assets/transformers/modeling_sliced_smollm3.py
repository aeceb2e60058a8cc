# Written by slicegpt-gpu (MIT licence).
from transformers.models.smollm3.modeling_smollm3 import SmolLM3DecoderLayer, SmolLM3ForCausalLM

from .configuration_sliced_smollm3 import SlicedSmolLM3Config
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer


class SlicedSmolLM3DecoderLayer(SlicedGatedLayer, SmolLM3DecoderLayer):
    pass


class SlicedSmolLM3ForCausalLM(SlicedGatedForCausalLM, SmolLM3ForCausalLM):
    config_class = SlicedSmolLM3Config
    layer_class = SlicedSmolLM3DecoderLayer
    _no_split_modules = ["SlicedSmolLM3DecoderLayer"]
