// gate: a signal times the sigmoid, or the silu, of another, in place.
//   y[t, i] = y[t, i] * f(x[t, column + i])
//   KIND 0 sigmoid, 1 silu
//   x         [tokens, x_stride] f32
//   y         [tokens, width]    f32; in place
//   dispatch  (parts of a row, tokens folded into (y, z)); 256 values a workgroup
// The gate may lie among other columns, which need not be copied apart.
struct Params {
    tokens: u32,
    width: u32,
    column: u32,
    x_stride: u32,
    y_stride: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
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
    let end = min((group.x + 1u) * 256u, params.width);
    for (var i = group.x * 256u + index; i < end; i += 64u) {
        let gate = x[token * params.x_stride + params.column + i];
        var factor = 1.0 / (1.0 + exp(-gate));
        if KIND == 1u { factor *= gate; }
        y[token * params.y_stride + i] *= factor;
    }
}
