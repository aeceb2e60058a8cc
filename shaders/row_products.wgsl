// row_products: the products of rows, each put where it belongs: the gradients of what rows were multiplied by.
//   y[place[r]] = sum_i a[r, i] * b[r, i]
//   a, b      [rows, width]  f32
//   places    [rows]         u32; none may be there twice
//   y         [*]            f32, one row; what no place names stays
//   dispatch  one workgroup a row, folded into (x, y)
struct Params {
    rows: u32,
    width: u32,
    a_stride: u32,
    b_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;                // [rows, a_stride]
@group(0) @binding(2) var<storage, read> b: array<f32>;                // [rows, b_stride]
@group(0) @binding(3) var<storage, read> places: array<u32>;           // [rows]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;          // [*]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let row = linear_workgroup(group, groups);
    // Workgroups beyond the last row go along through the barriers, with nothing to do.
    let width = select(0u, params.width, row < params.rows);
    var sum = 0.0;
    for (var i = index; i < width; i += 64u) {
        sum += a[row * params.a_stride + i] * b[row * params.b_stride + i];
    }
    sum = reduce_sum(sum, index);
    if index == 0u && row < params.rows {
        y[places[row]] = sum;
    }
}
