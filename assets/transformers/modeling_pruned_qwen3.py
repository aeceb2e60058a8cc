# Written by slicegpt-gpu (MIT licence).
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from .configuration_pruned_qwen3 import PrunedQwen3Config
from .modeling_pruned_common import PrunedForCausalLM


class PrunedQwen3ForCausalLM(PrunedForCausalLM, Qwen3ForCausalLM):
    config_class = PrunedQwen3Config
    layers = "model.layers"
