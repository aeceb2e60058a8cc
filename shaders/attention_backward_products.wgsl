// attention_backward_products: queries times keys, or gradients of attention's results times values.
//   shares[half + h, t, j] = left[query + t, h]·right[key + j, h / group]
//   left      [tokens, left_stride] f32; the run's head h begins at left_column + h * head_dim
//   right     [tokens, right_stride] f32; the run's head h begins at right_column + h / group * head_dim
//   dispatch  (tiles of keys, tiles of queries, heads); tiles of which no query sees a key are not touched
@group(0) @binding(1) var<storage, read> left_rows: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> shares: array<vec4<f32>>;

var<private> head: u32;

// Four coordinates from `dim` on; zero beyond the head.
fn load_left(at: u32, dim: u32) -> vec4<f32> {
    if ALIGNED == 1u { return left_rows[(at + dim) / 4u]; }
    var value = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        let element = at + dim + i;
        if dim + i < params.head_dim { value[i] = left_rows[element / 4u][element % 4u]; }
    }
    return value;
}

fn left_at(row: u32) -> u32 {
    let token = params.query + min(row, params.queries - 1u);
    return token * params.left_stride + params.left_column + head * params.head_dim;
}

fn right_at(column: u32) -> u32 {
    let token = params.key + min(column, params.keys - 1u);
    return token * params.right_stride + params.right_column + head / params.group * params.head_dim;
}

fn left(row: u32, step4: u32) -> mat4x4<f32> {
    let dim = 4u * step4;
    return transpose(mat4x4(
        load_left(left_at(row), dim),
        load_left(left_at(row + 1u), dim),
        load_left(left_at(row + 2u), dim),
        load_left(left_at(row + 3u), dim),
    ));
}

fn right(column: u32, step4: u32) -> mat4x4<f32> {
    let dim = 4u * step4;
    return transpose(mat4x4(
        load_right(right_at(column), dim),
        load_right(right_at(column + 1u), dim),
        load_right(right_at(column + 2u), dim),
        load_right(right_at(column + 3u), dim),
    ));
}

fn after(_step4: u32) {}

fn store4(row: u32, column: u32, values: vec4<f32>) {
    if row < params.queries && column < params.keys {
        shares[(params.half + head * params.rows + row) * params.stride4 + column / 4u] = values;
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    let first_row = 4u * ROWS4 * group.y;
    let first_column = 4u * COLUMNS4 * group.x;
    let query = params.query + first_row;
    let key = params.key + first_column;
    let later = key >= query + 4u * ROWS4;
    let forgotten = params.window != 0u && key + 4u * COLUMNS4 + params.window <= query + 1u;
    if later || forgotten {
        return;
    }
    head = group.z;
    walk(thread.xy, index, first_row, first_column, (params.head_dim + 3u) / 4u);
    fold_block();
    store_block(block_of(thread.xy, first_row, first_column));
}
