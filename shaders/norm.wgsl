// norm: scale every token to unit root mean square, or to zero mean and unit variance.
//   KIND 0 (rms):    y[t, i] = x[t, i] / sqrt(sum_j x[t, j]^2 / norm_width + eps) * weight[i] + bias[i]
//   KIND 1 (layer):  the same of x - mean_j x[t, j], with norm_width = width
//   x, y      [tokens, width]  f32
//   dispatch  LANES threads a token, 64 / LANES tokens a workgroup, folded into (x, y)
// norm_width is the width before slicing, so width <= norm_width: a sliced token is measured on the scale of the full
// one.
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    norm_width: u32,
    eps: f32,
    has_weight: u32,
    has_bias: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, stride]
@group(0) @binding(2) var<storage, read> weight: array<f32>;           // [width]
@group(0) @binding(3) var<storage, read> bias: array<f32>;             // [width]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;          // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups) * (64u / LANES) + index / LANES;
    // Threads beyond the last token go along through the barriers, with nothing to do.
    let width = select(0u, params.width, token < params.tokens);
    let lane = index % LANES;
    let start = token * params.stride;
    var mean = 0.0;
    if KIND == 1u {
        var sum = 0.0;
        for (var i = lane; i < width; i += LANES) {
            sum += x[start + i];
        }
        mean = reduce_sum(sum, index) / f32(params.width);
    }
    var squares = 0.0;
    for (var i = lane; i < width; i += LANES) {
        let value = x[start + i] - mean;
        squares += value * value;
    }
    let scale = 1.0 / sqrt(reduce_sum(squares, index) / f32(params.norm_width) + params.eps);
    for (var i = lane; i < width; i += LANES) {
        var value = (x[start + i] - mean) * scale;
        if params.has_weight != 0u { value *= weight[i]; }
        if params.has_bias != 0u { value += bias[i]; }
        y[start + i] = value;
    }
}
