# Written by slicegpt-gpu (MIT licence).
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeForCausalLM

from .configuration_pruned_qwen2_moe import PrunedQwen2MoeConfig
from .modeling_pruned_common import PrunedForCausalLM, stored_as

stored_as("pruned_qwen2_moe", "qwen2_moe")


class PrunedQwen2MoeForCausalLM(PrunedForCausalLM, Qwen2MoeForCausalLM):
    config_class = PrunedQwen2MoeConfig
    layers = "model.layers"
