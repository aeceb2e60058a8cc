// delta_gates_backward: the gradients of what delta_gates read, from those of the logarithms of its results.
//   dx[t, decay + h] = -d[t, h] * rate[h] * sigmoid(x[t, decay + h] + bias[h])
//   dx[t, beta + h]  = d[t, heads + h] * sigmoid(-x[t, beta + h])
//   x          [tokens, x_stride]  f32; `beta` and `decay` are columns
//   parameters [2, p_stride]       f32: rates, biases
//   d          [tokens, d_stride]  f32, of the logarithms
//   dx         [tokens, dx_stride] f32; other columns stay as they are
//   dispatch   one thread a (token, head), 64 a workgroup, folded into (x, y)
// Logarithms of what is kept are sums, and a gradient of them needs no division by what may be 0.
struct Params {
    tokens: u32,
    heads: u32,
    beta: u32,
    decay: u32,
    x_stride: u32,
    p_stride: u32,
    d_stride: u32,
    dx_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, x_stride]
@group(0) @binding(2) var<storage, read> parameters: array<f32>;       // [2, p_stride]
@group(0) @binding(3) var<storage, read> d: array<f32>;                // [tokens, d_stride]
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;         // [tokens, dx_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = linear_workgroup(group, groups) * 64u + index;
    if unit >= params.tokens * params.heads {
        return;
    }
    let token = unit / params.heads;
    let head = unit % params.heads;
    let start = token * params.x_stride;
    let decay = x[start + params.decay + head] + parameters[params.p_stride + head];
    let beta = x[start + params.beta + head];
    let gradient = token * params.d_stride + head;
    let to = token * params.dx_stride + head;
    dx[to + params.decay] = -d[gradient] * parameters[head] / (1.0 + exp(-decay));
    dx[to + params.beta] = d[gradient + params.heads] / (1.0 + exp(beta));
}
