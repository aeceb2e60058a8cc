// activation: y[t, i] = f(x[t, i]), or f(x[t, i]) * x[t, width + i] for a gated MLP.
//   KIND 0 relu, 1 gelu (erf), 2 gelu (tanh), 3 silu;  GATED 0 or 1
//   x         [tokens, x_stride] f32, gate first, then up
//   y         [tokens, width]    f32
//   dispatch  (parts of a row, tokens folded into (y, z)); PART elements a workgroup
// No index is divided: that costs as much as all the rest.
struct Params {
    tokens: u32,
    width: u32,
    x_stride: u32,
    y_stride: u32,
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
    let end = min((group.x + 1u) * PART, params.width);
    for (var i = group.x * PART + index; i < end; i += 64u) {
        var value = apply(x[start + i]);
        if GATED == 1u {
            value *= x[start + params.width + i];
        }
        y[token * params.y_stride + i] = value;
    }
}
