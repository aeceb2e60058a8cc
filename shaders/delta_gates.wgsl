// delta_gates: how much of its state a head of a gated delta net keeps at a token, and how much of an error it
// corrects.
//   gates[t, h]         = exp(-rate[h] * softplus(x[t, decay + h] + bias[h]))
//   gates[t, heads + h] = sigmoid(x[t, beta + h])
//   x          [tokens, x_stride] f32; `beta` and `decay` are columns
//   parameters [2, p_stride]      f32: rates, biases
//   gates      [tokens, y_stride] f32
//   dispatch   one thread a (token, head), 64 a workgroup, folded into (x, y)
// What is kept is close to 1 and multiplied once a token: softplus must be right relative to itself where it is small.
struct Params {
    tokens: u32,
    heads: u32,
    beta: u32,
    decay: u32,
    x_stride: u32,
    p_stride: u32,
    y_stride: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, x_stride]
@group(0) @binding(2) var<storage, read> parameters: array<f32>;       // [2, p_stride]
@group(0) @binding(3) var<storage, read_write> gates: array<f32>;      // [tokens, y_stride]

fn softplus(x: f32) -> f32 {
    let e = exp(-abs(x));
    // Below, the series of log(1 + e) has an error of less than e^4 / 5 of it; above, 1 + e keeps enough of e.
    let log1p = select(log(1.0 + e), e * (1.0 - e * (0.5 - e * (0.33333333 - e * 0.25))), e < 0.03);
    return max(x, 0.0) + log1p;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = linear_workgroup(group, groups) * 64u + index;
    if unit >= params.tokens * params.heads {
        return;
    }
    let token = unit / params.heads;
    let head = unit % params.heads;
    let start = token * params.x_stride;
    let rate = parameters[head];
    let decay = x[start + params.decay + head] + parameters[params.p_stride + head];
    let beta = x[start + params.beta + head];
    gates[token * params.y_stride + head] = exp(-rate * softplus(decay));
    gates[token * params.y_stride + params.heads + head] = 1.0 / (1.0 + exp(-beta));
}
