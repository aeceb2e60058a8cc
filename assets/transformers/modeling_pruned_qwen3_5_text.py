# Written by slicegpt-gpu (MIT licence).
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForCausalLM

from .configuration_pruned_qwen3_5_text import PrunedQwen3_5TextConfig
from .modeling_pruned_common import ATTENTION, PrunedForCausalLM


class PrunedQwen3_5TextForCausalLM(PrunedForCausalLM, Qwen3_5ForCausalLM):
    config_class = PrunedQwen3_5TextConfig
    layers = "model.layers"
    attention = {**ATTENTION, "q_proj": (None, "gated_queries")}
