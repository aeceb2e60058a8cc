// probe_copy: one matrix into another, the most that an adapter's memory can do.
//   y[i] = x[i]
//   x, y      [rows, stride]  f32, alike
//   dispatch  one thread for four elements, 64 threads a workgroup, folded into (x, y)
struct Params {
    count4: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [rows, stride]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;    // [rows, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let i = 64u * linear_workgroup(group, groups) + index;
    if i < params.count4 {
        y[i] = x[i];
    }
}
