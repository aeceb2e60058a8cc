// add_rows: y[target, i] += gate * x[r, i]: rows weighted and added to rows of another matrix.
//   x         [rows, width]  f32
//   rows      [rows] (target row, the bits of its gate); no target may be there twice
//   y         [*, width]     f32, in place
//   dispatch  (ceil(width / 256), rows folded into (y, z)); a workgroup adds 256 values of a row
struct Params {
    rows: u32,
    width: u32,
    x_stride: u32,
    y_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [rows, x_stride]
@group(0) @binding(2) var<storage, read> rows: array<vec2<u32>>;       // [rows]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;          // [*, y_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let row = folded_row(group, groups);
    if row >= params.rows {
        return;
    }
    let place = rows[row].x * params.y_stride;
    let gate = bitcast<f32>(rows[row].y);
    let end = min((group.x + 1u) * 256u, params.width);
    for (var i = group.x * 256u + index; i < end; i += 64u) {
        y[place + i] += gate * x[row * params.x_stride + i];
    }
}
