// What the kernels of attention's gradient share: a run of query heads of one sequence and a block of its queries, the
// keys that these see, and two numbers of each query and key in memory, `shares`:
//   shares    [2 * heads * rows, 4 * stride4] f32, by query head, query and key, of which the keys up to a multiple of
//             4 count; the second half after the first
// First products go there, then what attention_backward_shares.wgsl makes of them.
struct Params {
    first: u32,                                                        // row of the sequence's first token
    query: u32,                                                        // row of the first query
    queries: u32,
    rows: u32,                                                         // queries, up to a multiple of 4
    key: u32,                                                          // row of the first key
    keys: u32,
    stride4: u32,
    head: u32,                                                         // the first query head
    heads: u32,
    group: u32,                                                        // query heads of a key-value head
    head_dim: u32,
    window: u32,
    left_stride: u32,
    left_column: u32,
    right_stride: u32,
    right_column: u32,
    out_stride: u32,
    out_column: u32,
    half: u32,                                                         // the first row of the half of `shares`
    scale: f32,
    softcap: f32,
    alibi_heads: u32,
    alibi_factor: f32,
    alibi_in_bf16: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
