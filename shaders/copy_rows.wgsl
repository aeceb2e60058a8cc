// copy_rows: to[target, to_column + i] = from[source, from_column + ...]: rows picked from one matrix and put into another.
//   rows      [pairs] (source row, target row)
//   heads * head_dim values a row: head h is read at from_column + h * head_stride and written at to_column + h * head_dim
//   dispatch  (ceil(heads / HEADS), pairs folded into (y, z)); LANES threads a head, HEADS heads a workgroup
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
    let unit = folded_row(group, groups);
    if unit >= params.pairs {
        return;
    }
    let pair = rows[unit];
    let end = min((group.x + 1u) * HEADS, params.heads);
    for (var head = group.x * HEADS + index / LANES; head < end; head += 64u / LANES) {
        let source = pair.x * params.from_stride + params.from_column + head * params.head_stride;
        let place = pair.y * params.to_stride + params.to_column + head * params.head_dim;
        for (var i = index % LANES; i < params.head_dim; i += LANES) {
            to_rows[place + i] = from_rows[source + i];
        }
    }
}
