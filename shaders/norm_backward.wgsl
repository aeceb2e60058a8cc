// norm_backward: the gradient of a norm's input from that of its output.
//   with g = d * weight, n = (x - mean) * r, r = 1 / sqrt(sum_j (x - mean)^2 / norm_width + eps)
//   KIND 0 (rms):    dx[t, i] (+)= r * (g[t, i] - n[t, i] * sum_j g[t, j] n[t, j] / norm_width), the mean taken as 0
//   KIND 1 (layer):  dx[t, i] (+)= r * (g[t, i] - mean_j g[t, j] - n[t, i] * sum_j g[t, j] n[t, j] / norm_width)
//   x, d, dx  [tokens, width]  f32
//   dispatch  LANES threads a token, 64 / LANES tokens a workgroup, folded into (x, y)
// What slicing has taken off is a constant of the model: nothing is differentiated by it, and norm_width stays the
// divisor.
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    norm_width: u32,
    eps: f32,
    has_weight: u32,
    accumulate: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, stride]
@group(0) @binding(2) var<storage, read> weight: array<f32>;           // [width]
@group(0) @binding(3) var<storage, read> d: array<f32>;                // [tokens, stride]
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;         // [tokens, stride]

fn weighted(at: u32, i: u32) -> f32 {
    if params.has_weight != 0u { return d[at] * weight[i]; }
    return d[at];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups) * (64u / LANES) + index / LANES;
    // Threads beyond the last token go along through the barriers, with nothing to do.
    let width = select(0u, params.width, token < params.tokens);
    let lane = index % LANES;
    let start = token * params.stride;
    var mean = 0.0;
    var mean_gradient = 0.0;
    if KIND == 1u {
        var sum = 0.0;
        var gradients = 0.0;
        for (var i = lane; i < width; i += LANES) {
            sum += x[start + i];
            gradients += weighted(start + i, i);
        }
        mean = reduce_sum(sum, index) / f32(params.width);
        mean_gradient = reduce_sum(gradients, index) / f32(params.width);
    }
    var squares = 0.0;
    for (var i = lane; i < width; i += LANES) {
        let value = x[start + i] - mean;
        squares += value * value;
    }
    let scale = 1.0 / sqrt(reduce_sum(squares, index) / f32(params.norm_width) + params.eps);
    var products = 0.0;
    for (var i = lane; i < width; i += LANES) {
        products += weighted(start + i, i) * ((x[start + i] - mean) * scale);
    }
    let along = reduce_sum(products, index) / f32(params.norm_width);
    for (var i = lane; i < width; i += LANES) {
        var value = scale * (weighted(start + i, i) - mean_gradient - (x[start + i] - mean) * scale * along);
        if params.accumulate != 0u { value += dx[start + i]; }
        dx[start + i] = value;
    }
}
