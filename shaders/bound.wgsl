// bound: every value kept within a limit.
//   y[t, i] = min(max(y[t, i], -limit), limit) with KIND 0 (clip), or limit * tanh(y[t, i] / limit) with KIND 1
//   (soft-cap)
//   y         [tokens, width]  f32, in place
//   dispatch  64 groups of four values a workgroup, folded into (x, y)
struct Params {
    groups: u32,
    limit: f32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;    // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let at = 64u * linear_workgroup(group, groups) + index;
    if at >= params.groups {
        return;
    }
    let value = y[at];
    let limit = vec4(params.limit);
    if KIND == 0u {
        y[at] = clamp(value, -limit, limit);
    } else {
        let ratio = value / limit;
        y[at] = limit * vec4(tanh_of(ratio.x), tanh_of(ratio.y), tanh_of(ratio.z), tanh_of(ratio.w));
    }
}
