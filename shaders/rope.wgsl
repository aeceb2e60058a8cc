// rope: rotate pairs of coordinates of each head by an angle that grows with the position, in place.
//   (x[p], x[q]) <- (x[p] cos - x[q] sin, x[q] cos + x[p] sin)   for p = i, q = i + pairs, i < pairs of a head
//   Coordinates from 2 * pairs on stay as they are. BACKWARD = 1: by the opposite angle, which makes the gradient of
//   x before of that after.
//   x         [tokens, stride] f32; head h begins at column + h * head_dim
//   table     [positions, pairs] (cos, sin)
//   dispatch  (ceil(heads / HEADS), tokens folded into (y, z)); LANES threads a head, HEADS heads a workgroup
// Cosines come from a table of the CPU: WGSL allows sin and cos an error of 2^-11, and more for large angles.
struct Params {
    tokens: u32,
    heads: u32,
    pairs: u32,
    stride: u32,
    column: u32,
    head_dim: u32,
    table_stride2: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> positions: array<u32>;        // [tokens]
@group(0) @binding(2) var<storage, read> table: array<vec2<f32>>;      // [positions, table_stride2]
@group(0) @binding(3) var<storage, read_write> x: array<f32>;          // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = folded_row(group, groups);
    if token >= params.tokens {
        return;
    }
    let angles = positions[token] * params.table_stride2;
    let end = min((group.x + 1u) * HEADS, params.heads);
    for (var head = group.x * HEADS + index / LANES; head < end; head += 64u / LANES) {
        let start = token * params.stride + params.column + head * params.head_dim;
        for (var pair = index % LANES; pair < params.pairs; pair += LANES) {
            var turn = table[angles + pair];
            if BACKWARD == 1u { turn.y = -turn.y; }
            let p = start + pair;
            let q = p + params.pairs;
            let at_p = x[p];
            let at_q = x[q];
            x[p] = at_p * turn.x - at_q * turn.y;
            x[q] = at_q * turn.x + at_p * turn.y;
        }
    }
}
