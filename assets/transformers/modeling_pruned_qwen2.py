# Written by slicegpt-gpu (MIT licence).
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

from .configuration_pruned_qwen2 import PrunedQwen2Config
from .modeling_pruned_common import PrunedForCausalLM


class PrunedQwen2ForCausalLM(PrunedForCausalLM, Qwen2ForCausalLM):
    config_class = PrunedQwen2Config
    layers = "model.layers"
