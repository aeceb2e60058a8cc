# Written by slicegpt-gpu (MIT licence).
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM

from .configuration_pruned_qwen3_moe import PrunedQwen3MoeConfig
from .modeling_pruned_common import PrunedForCausalLM, stored_as

stored_as("pruned_qwen3_moe", "qwen3_moe")


class PrunedQwen3MoeForCausalLM(PrunedForCausalLM, Qwen3MoeForCausalLM):
    config_class = PrunedQwen3MoeConfig
    layers = "model.layers"
