// Four coordinates of the right rows, from `dim` on of a head that begins at `at`; zero beyond the head.
@group(0) @binding(2) var<storage, read> right_rows: array<vec4<f32>>;

fn load_right(at: u32, dim: u32) -> vec4<f32> {
    if ALIGNED == 1u { return right_rows[(at + dim) / 4u]; }
    var value = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        let element = at + dim + i;
        if dim + i < params.head_dim { value[i] = right_rows[element / 4u][element % 4u]; }
    }
    return value;
}
