// clamped_swiglu: y[t, i] = (u + 1) * g * sigmoid(alpha * g), as gpt_oss has it.
//   g = min(x[t, i], limit), u = clamp(x[t, width + i], -limit, limit)
//   x         [tokens, x_stride] f32, gate first, then up
//   y         [tokens, width]    f32
//   dispatch  (parts of a row, tokens folded into (y, z)); 256 values a workgroup
// The gate is clamped from above alone.
struct Params {
    tokens: u32,
    width: u32,
    x_stride: u32,
    y_stride: u32,
    alpha: f32,
    limit: f32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, x_stride]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;          // [tokens, y_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = folded_row(group, groups);
    if token >= params.tokens {
        return;
    }
    let start = token * params.x_stride;
    let end = min((group.x + 1u) * 256u, params.width);
    for (var i = group.x * 256u + index; i < end; i += 64u) {
        let gate = min(x[start + i], params.limit);
        let up = clamp(x[start + params.width + i], -params.limit, params.limit);
        y[token * params.y_stride + i] = (up + 1.0) * (gate / (1.0 + exp(-params.alpha * gate)));
    }
}
