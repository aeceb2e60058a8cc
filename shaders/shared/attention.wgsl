// What both attention kernels are given.
struct Params {
    head_dim: u32,
    group: u32,
    group_part: u32,
    q_stride: u32,
    q_column: u32,
    q_head_stride: u32,
    kv_stride: u32,
    k_column: u32,
    k_head_stride: u32,
    v_column: u32,
    v_head_stride: u32,
    out_stride: u32,
    scale: f32,
    window: u32,
    blocks: u32,
    kv_heads: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;                // [tokens, q_stride]
@group(0) @binding(2) var<storage, read> kv: array<f32>;               // [rows, kv_stride]
@group(0) @binding(3) var<storage, read> blocks: array<vec4<u32>>;     // [blocks]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;        // [tokens, out_stride]
