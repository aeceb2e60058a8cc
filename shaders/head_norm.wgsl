// head_norm: normalise each attention head of queries or keys by itself, in place (QK-norm).
//   KIND 0 (rms) or 1 (layer), as in norm.wgsl, over the head_dim values of a head; weight_stride is 0 where the
//   heads share weight and bias
//   x         [tokens, stride] f32; head h begins at column + h * head_dim
//   dispatch  one workgroup a (token, head), folded into (x, y)
struct Params {
    tokens: u32,
    heads: u32,
    head_dim: u32,
    stride: u32,
    column: u32,
    eps: f32,
    has_bias: u32,
    weight_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;           // [1 or heads, head_dim]
@group(0) @binding(2) var<storage, read> bias: array<f32>;             // [1 or heads, head_dim]
@group(0) @binding(3) var<storage, read_write> x: array<f32>;          // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = linear_workgroup(group, groups);
    if unit >= params.tokens * params.heads {
        return;
    }
    let start = unit / params.heads * params.stride + params.column + unit % params.heads * params.head_dim;
    let own = unit % params.heads * params.weight_stride;
    var mean = 0.0;
    if KIND == 1u {
        var sum = 0.0;
        for (var i = index; i < params.head_dim; i += 64u) {
            sum += x[start + i];
        }
        mean = reduce_sum(sum, index) / f32(params.head_dim);
    }
    var squares = 0.0;
    for (var i = index; i < params.head_dim; i += 64u) {
        let value = x[start + i] - mean;
        squares += value * value;
    }
    let scale = 1.0 / sqrt(reduce_sum(squares, index) / f32(params.head_dim) + params.eps);
    for (var i = index; i < params.head_dim; i += 64u) {
        var value = (x[start + i] - mean) * scale * weight[own + i];
        if params.has_bias != 0u { value += bias[own + i]; }
        x[start + i] = value;
    }
}
