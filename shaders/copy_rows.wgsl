// copy_rows: to[target, to_column + i] = from[source, from_column + ...]: rows picked from one matrix and put into another.
//   rows      [pairs] (source row, target row)
//   heads * head_dim values a row: head h is read at from_column + h * head_stride and written at to_column + h * head_dim
//   dispatch  one thread an element, 64 a workgroup, folded into (x, y)
struct Params {
    pairs: u32,
    heads: u32,
    head_dim: u32,
    head_stride: u32,
    from_stride: u32,
    from_column: u32,
    to_stride: u32,
    to_column: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> from_rows: array<f32>;        // [*, from_stride]
@group(0) @binding(2) var<storage, read> rows: array<vec2<u32>>;       // [pairs]
@group(0) @binding(3) var<storage, read_write> to_rows: array<f32>;    // [*, to_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = 64u * linear_workgroup(group, groups) + index;
    let width = params.heads * params.head_dim;
    if unit >= params.pairs * width {
        return;
    }
    let pair = rows[unit / width];
    let i = unit % width;
    let source = params.from_column + i / params.head_dim * params.head_stride + i % params.head_dim;
    to_rows[pair.y * params.to_stride + params.to_column + i] = from_rows[pair.x * params.from_stride + source];
}
