// What both attention kernels are given.
struct Params {
    group: u32,
    group_part: u32,
    q_stride: u32,
    q_column: u32,
    kv_stride: u32,
    k_column: u32,
    v_column: u32,
    out_stride: u32,
    scale: f32,
    window: u32,
    blocks: u32,
    kv_heads: u32,
    softcap: f32,
    alibi_heads: u32,
    alibi_factor: f32,
    alibi_in_bf16: u32,
    sinks: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;          // [tokens, q_stride]
@group(0) @binding(2) var<storage, read> kv: array<vec4<f32>>;         // [rows, kv_stride]
@group(0) @binding(3) var<storage, read> blocks: array<vec4<u32>>;     // [blocks], then the sinks
@group(0) @binding(4) var<storage, read_write> out: array<f32>;        // [tokens, out_stride]

// The logit of a head that stands for no key; MASKED where there is none.
fn sink_of(head: u32) -> f32 {
    if params.sinks == 0u { return MASKED; }
    let at = min(head, params.sinks - 1u);
    return bitcast<f32>(blocks[params.blocks + at / 4u][at % 4u]);
}

// Coordinates dim .. dim+3 of the query, or of the key or value, that begins at an element; zero beyond the head. dim
// is a multiple of 4.
// ALIGNED = 1: every head begins at a multiple of four and has a multiple of four coordinates.
fn load_q(at: u32, dim: u32) -> vec4<f32> {
    var value = vec4(0.0);
    if ALIGNED == 1u {
        if dim < HEAD_DIM { value = q[(at + dim) / 4u]; }
        return value;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let element = at + dim + i;
        if dim + i < HEAD_DIM { value[i] = q[element / 4u][element % 4u]; }
    }
    return value;
}

fn load_kv(at: u32, dim: u32) -> vec4<f32> {
    var value = vec4(0.0);
    if ALIGNED == 1u {
        if dim < HEAD_DIM { value = kv[(at + dim) / 4u]; }
        return value;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let element = at + dim + i;
        if dim + i < HEAD_DIM { value[i] = kv[element / 4u][element % 4u]; }
    }
    return value;
}
