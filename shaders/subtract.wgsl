// subtract: one signal less a multiple of another.
//   y[t, i] = y[t, i] - factor * x[t, i]
//   x, y      [tokens, width]  f32; y in place
//   dispatch  64 groups of four values a workgroup, folded into (x, y)
struct Params {
    groups: u32,
    factor: f32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;    // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let at = 64u * linear_workgroup(group, groups) + index;
    if at < params.groups {
        y[at] -= params.factor * x[at];
    }
}
