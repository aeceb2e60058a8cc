//! Transformers as data: the architecture table, configs, weights, and the forward pass of one layer.

mod adapter;
mod agreement;
mod allows;
pub mod architecture;
mod attention;
mod backward;
mod batch;
mod config;
mod decoder;
mod defaults;
mod delta_backward;
mod delta_net;
mod delta_spec;
mod delta_weights;
mod ends;
mod ends_backward;
mod expert;
mod expert_spec;
mod experts;
mod experts_backward;
mod fields;
pub mod forms;
pub mod fuse;
mod fused_rows;
mod generation;
mod host;
mod kind;
mod layer;
mod layer_spec;
mod missing;
mod mixture;
mod multimodal;
mod parameters;
mod places;
mod pruning;
mod read_layers;
mod read_sizes;
mod rope;
mod shapes;
mod shared_expert;
mod slicing;
mod storage;
mod stored;
mod stored_vocabulary;
mod tensors;
mod through;
mod tokenizer_class;
mod vocabulary;
mod weights;

pub use adapter::Adapter;
pub use agreement::{Agreement, Agreements};
pub use allows::MIXTURE;
pub use backward::{AffineGradients, BlockGradients, LinearGradients, StepGradients, Wanted};
pub use batch::{
    BATCH_TOKENS, Batch, BatchSize, backward_bytes, layers_bytes, mixed_bytes, plan_batches, row_bytes, signal_bytes,
    staging_bytes, state_bytes, states_bytes,
};
pub use config::{Config, PRUNED_PREFIX, SLICED_PREFIX};
pub use decoder::{Model, Narrowing};
pub use delta_weights::{DeltaWeights, LayerCache};
pub use ends::{Draw, Ends, HeadPart, LOGIT_SLICE, PART_BYTES, Readout, each_part, logit_entries, logit_slices, parts};
pub use ends_backward::{HeadSlice, Targets, TeacherSlice};
pub use expert::{Given, gathered};
pub use experts_backward::{MixtureBack, back_through_step, mix_backward};
pub use forms::{
    AdapterForm, AdapterTensor, GgufExport, GgufTokenizer, LowRank, RemoteCode, Resize, Vocabulary, is_gguf,
    without_mean,
};
pub use generation::{GenerationConfig, StopTokens};
pub use host::{HostBlock, HostDeltaNet, HostEnds, HostLayer, HostLinear, HostMatrix, HostNorm, HostStep};
pub use layer::{BlockWeights, InnerTap, LayerContext, LayerWeights, Linear, NoTap, NormWeights, StepWeights, Tap};
pub use layer_spec::{DeltaNet, Experts, LayerSpec, Step};
pub use mixture::{ExpertTap, NoExpertTap, Routed, forward, mix, mix_all, routes_bytes, through_step};
pub use places::{PLACES, PlaceSums, place, places};
pub use pruning::{Kept, LayerSizes, Pruning, without_lowest};
pub use rope::{Rope, Scaling};
pub use shapes::{SHAPES, Shape};
pub use slicing::{LayerWidths, Slicing};
pub use storage::{Rows, scatter, side_by_side};
pub use stored::element_type;
pub use tensors::{Names, TensorSpec};
pub use through::through;
pub use weights::WeightStore;
