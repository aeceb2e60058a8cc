// clamped_swiglu_backward: the gradient of what clamped_swiglu was given from that of its result.
//   g = min(x[t, i], limit), u = clamp(x[t, width + i], -limit, limit), s = sigmoid(alpha * g)
//   dx[t, i]         = d[t, i] * (u + 1) * s * (1 + alpha * g * (1 - s)), 0 where the gate is beyond the limit
//   dx[t, width + i] = d[t, i] * g * s,                                   0 where up is beyond the limits
//   x, dx     [tokens, x_stride] f32, gate first, then up
//   d         [tokens, width]    f32
//   dispatch  (parts of a row, tokens folded into (y, z)); 256 values a workgroup
struct Params {
    tokens: u32,
    width: u32,
    x_stride: u32,
    d_stride: u32,
    alpha: f32,
    limit: f32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, x_stride]
@group(0) @binding(2) var<storage, read> d: array<f32>;                // [tokens, d_stride]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;         // [tokens, x_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = folded_row(group, groups);
    if token >= params.tokens {
        return;
    }
    let start = token * params.x_stride;
    let end = min((group.x + 1u) * 256u, params.width);
    for (var i = group.x * 256u + index; i < end; i += 64u) {
        let gradient = d[token * params.d_stride + i];
        let gate = min(x[start + i], params.limit);
        let up = clamp(x[start + params.width + i], -params.limit, params.limit);
        let z = params.alpha * gate;
        let share = 1.0 / (1.0 + exp(-z));
        // What is missing from 1 is the sigmoid of -z: a difference would leave nothing of it.
        let slope = share + z * share / (1.0 + exp(z));
        dx[start + i] = select(0.0, gradient * (up + 1.0) * slope, x[start + i] <= params.limit);
        dx[start + params.width + i] = select(0.0, gradient * gate * share, abs(x[start + params.width + i]) <= params.limit);
    }
}
