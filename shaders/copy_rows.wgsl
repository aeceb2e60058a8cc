// copy_rows: to[target, to_column + i] = from[source, from_column + i], i < cols: rows picked from one matrix and put
// into another.
//   rows      [pairs] (source row, target row)
//   dispatch  (ceil(cols / 256), pairs folded into (y, z)); a workgroup copies 256 values of a row
struct Params {
    pairs: u32,
    cols: u32,
    from_stride: u32,
    from_column: u32,
    to_stride: u32,
    to_column: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> from_rows: array<f32>;        // [*, from_stride]
@group(0) @binding(2) var<storage, read> rows: array<vec2<u32>>;       // [pairs]
@group(0) @binding(3) var<storage, read_write> to_rows: array<f32>;    // [*, to_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = folded_row(group, groups);
    if unit >= params.pairs {
        return;
    }
    let pair = rows[unit];
    let source = pair.x * params.from_stride + params.from_column;
    let place = pair.y * params.to_stride + params.to_column;
    let end = min((group.x + 1u) * 4u * LANES, params.cols);
    for (var i = group.x * 4u * LANES + index; i < end; i += LANES) {
        to_rows[place + i] = from_rows[source + i];
    }
}
