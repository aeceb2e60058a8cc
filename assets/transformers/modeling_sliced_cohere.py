# Written by slicegpt-gpu (MIT licence).
from transformers.models.cohere.modeling_cohere import CohereDecoderLayer, CohereForCausalLM

from .configuration_sliced_cohere import SlicedCohereConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer

ATTENTION = SlicedGatedLayer.ATTENTION
MLP = ("input_layernorm", *SlicedGatedLayer.MLP[1:])


class SlicedCohereDecoderLayer(SlicedGatedLayer, CohereDecoderLayer):
    MLP = MLP
    parallel = True


class SlicedCohereForCausalLM(SlicedGatedForCausalLM, CohereForCausalLM):
    config_class = SlicedCohereConfig
    layer_class = SlicedCohereDecoderLayer
    _no_split_modules = ["SlicedCohereDecoderLayer"]
