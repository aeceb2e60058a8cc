// gate_backward: the gradients of a signal and of what it was multiplied by, from that of their product.
//   dx[t, column + i] = d[t, i] * y[t, i] * f'(x[t, column + i]);   d[t, i] = d[t, i] * f(x[t, column + i])
//   KIND as in gate.wgsl
//   x, dx     [tokens, x_stride] f32
//   y, d      [tokens, width]    f32, y as it was before the gate; d in place
//   dispatch  (parts of a row, tokens folded into (y, z)); 256 values a workgroup
struct Params {
    tokens: u32,
    width: u32,
    column: u32,
    x_stride: u32,
    dx_stride: u32,
    y_stride: u32,
    d_stride: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, x_stride]
@group(0) @binding(2) var<storage, read> y: array<f32>;                // [tokens, y_stride]
@group(0) @binding(3) var<storage, read_write> d: array<f32>;          // [tokens, d_stride]
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;         // [tokens, dx_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = folded_row(group, groups);
    if token >= params.tokens {
        return;
    }
    let end = min((group.x + 1u) * 256u, params.width);
    for (var i = group.x * 256u + index; i < end; i += 64u) {
        let gate = x[token * params.x_stride + params.column + i];
        let gradient = d[token * params.d_stride + i];
        var factor = 1.0 / (1.0 + exp(-gate));
        // What is missing from 1 is the sigmoid of -gate: a difference would leave nothing of it.
        var slope = factor / (1.0 + exp(gate));
        if KIND == 1u {
            slope = factor + gate * slope;
            factor *= gate;
        }
        dx[token * params.dx_stride + params.column + i] = gradient * y[token * params.y_stride + i] * slope;
        d[token * params.d_stride + i] = gradient * factor;
    }
}
