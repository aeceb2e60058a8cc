// bound_backward: the gradient of what bound was given, from that of its result.
//   d[t, i] = d[t, i] where |y[t, i]| < limit, else 0, with KIND 0 (clip), or d[t, i] * (1 - (y[t, i] / limit)^2)
//   with KIND 1 (soft-cap)
//   y, d      [tokens, width]  f32, y as bound has made it; d in place
//   dispatch  64 groups of four values a workgroup, folded into (x, y)
struct Params {
    groups: u32,
    limit: f32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> d: array<vec4<f32>>;    // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let at = 64u * linear_workgroup(group, groups) + index;
    if at >= params.groups {
        return;
    }
    let value = y[at];
    let limit = vec4(params.limit);
    if KIND == 0u {
        d[at] = select(vec4(0.0), d[at], abs(value) < limit);
    } else {
        d[at] *= 1.0 - (value / limit) * (value / limit);
    }
}
