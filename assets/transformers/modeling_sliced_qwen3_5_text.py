# Written by slicegpt-gpu (MIT licence).
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5ForCausalLM

from .configuration_sliced_qwen3_5_text import SlicedQwen3_5TextConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer

ATTENTION, MLP = SlicedGatedLayer.ATTENTION, SlicedGatedLayer.MLP
READS = [f"linear_attn.in_proj_{name}" for name in ("qkv", "z", "b", "a")]
DELTA_NET = ("input_layernorm", READS, "linear_attn.out_proj")


class SlicedQwen3_5DecoderLayer(SlicedGatedLayer, Qwen3_5DecoderLayer):
    @property
    def ATTENTION(self):
        return DELTA_NET if hasattr(self, "linear_attn") else ATTENTION

    def attend(self, normed, past_key_values=None, attention_mask=None, **kwargs):
        if hasattr(self, "linear_attn"):
            return self.linear_attn(normed, cache_params=past_key_values, attention_mask=attention_mask)
        return super().attend(normed, past_key_values=past_key_values, attention_mask=attention_mask, **kwargs)


class SlicedQwen3_5TextForCausalLM(SlicedGatedForCausalLM, Qwen3_5ForCausalLM):
    config_class = SlicedQwen3_5TextConfig
    layer_class = SlicedQwen3_5DecoderLayer
    _no_split_modules = ["SlicedQwen3_5DecoderLayer"]
