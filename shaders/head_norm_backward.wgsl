// head_norm_backward: the gradient of what head_norm normalised from that of its result, each head by itself, in place.
//   KIND 0 (rms) or 1 (layer), as in norm_backward.wgsl, over the head_dim values of a head; weight_stride is 0 where
//   the heads share weight
//   x, d      [tokens, stride] f32, x as it was before the norm; head h begins at column + h * head_dim of both
//   dispatch  one workgroup a (token, head), folded into (x, y)
struct Params {
    tokens: u32,
    heads: u32,
    head_dim: u32,
    stride: u32,
    column: u32,
    eps: f32,
    weight_stride: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, stride]
@group(0) @binding(2) var<storage, read> weight: array<f32>;           // [1 or heads, head_dim]
@group(0) @binding(3) var<storage, read_write> d: array<f32>;          // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = linear_workgroup(group, groups);
    if unit >= params.tokens * params.heads {
        return;
    }
    let start = unit / params.heads * params.stride + params.column + unit % params.heads * params.head_dim;
    let own = unit % params.heads * params.weight_stride;
    var mean = 0.0;
    var mean_gradient = 0.0;
    if KIND == 1u {
        var sum = 0.0;
        var gradients = 0.0;
        for (var i = index; i < params.head_dim; i += 64u) {
            sum += x[start + i];
            gradients += d[start + i] * weight[own + i];
        }
        mean = reduce_sum(sum, index) / f32(params.head_dim);
        mean_gradient = reduce_sum(gradients, index) / f32(params.head_dim);
    }
    var squares = 0.0;
    for (var i = index; i < params.head_dim; i += 64u) {
        let value = x[start + i] - mean;
        squares += value * value;
    }
    let scale = 1.0 / sqrt(reduce_sum(squares, index) / f32(params.head_dim) + params.eps);
    var products = 0.0;
    for (var i = index; i < params.head_dim; i += 64u) {
        products += d[start + i] * weight[own + i] * ((x[start + i] - mean) * scale);
    }
    let along = reduce_sum(products, index) / f32(params.head_dim);
    for (var i = index; i < params.head_dim; i += 64u) {
        d[start + i] = scale * (d[start + i] * weight[own + i] - mean_gradient - (x[start + i] - mean) * scale * along);
    }
}
