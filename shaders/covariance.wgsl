// covariance: Aᵀ·B over tokens, summed in short chunks; of a matrix with itself the upper triangle only.
//   c[i, j] (+)= sum over chunks ( sum over the chunk's tokens a[t, i] * b[t, j] )
//   a         [rows, tokens]              f32, as transpose.wgsl leaves it: zero beyond the last token
//   b         [columns, tokens]           f32, the same
//   c         [rows, columns]             f32
//   dispatch  (ceil(rows / tile rows), ceil(columns / tile columns), 1) for the rows first_row .. end_row of c
// triangle != 0: tiles below the diagonal are not touched.
// A chunk is 64 tokens. One running f32 sum over thousands of tokens loses the small eigenvalues to the few tokens of
// huge norm. What a thread reads lies side by side; neighbouring workgroups have the same columns, which therefore stay
// in the caches.
struct Params {
    tokens: u32,
    rows: u32,
    columns: u32,
    stride4: u32,
    c_stride: u32,
    first_row: u32,
    end_row: u32,
    accumulate: u32,
    triangle: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;          // [rows to a multiple of 4, stride]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;          // [columns to a multiple of 4, stride]
@group(0) @binding(3) var<storage, read_write> c: array<f32>;          // [end_row - first_row, c_stride]

const CHUNK4: u32 = 16u;

// Where four tokens of four coordinates begin: beyond the last coordinate, of the last four again.
fn tokens4(coordinate: u32, coordinates: u32, step4: u32) -> u32 {
    return min(coordinate, (coordinates + 3u) / 4u * 4u - 4u) * params.stride4 + step4;
}

fn left(row: u32, step4: u32) -> mat4x4<f32> {
    let at = tokens4(row, params.rows, step4);
    return transpose(mat4x4(a[at], a[at + params.stride4], a[at + 2u * params.stride4], a[at + 3u * params.stride4]));
}

fn right(column: u32, step4: u32) -> mat4x4<f32> {
    let at = tokens4(column, params.columns, step4);
    return transpose(mat4x4(b[at], b[at + params.stride4], b[at + 2u * params.stride4], b[at + 3u * params.stride4]));
}

// Ends a chunk.
fn after(step4: u32) {
    if step4 % CHUNK4 == CHUNK4 - 1u { fold_block(); }
}

fn store4(row: u32, column: u32, values: vec4<f32>) {
    if row >= params.end_row {
        return;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.columns {
            let at = (row - params.first_row) * params.c_stride + column + i;
            var result = values[i];
            if params.accumulate != 0u { result += c[at]; }
            c[at] = result;
        }
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
) {
    // Long columns of the triangle and short ones in turn: where a device deals out the grid in halves, both have the
    // same to do.
    let tile_column = select(group.y / 2u, groups.y - 1u - group.y / 2u, group.y % 2u == 1u);
    let first_row = params.first_row + 4u * ROWS4 * group.x;
    let first_column = 4u * COLUMNS4 * tile_column;
    if params.triangle != 0u && first_column + 4u * COLUMNS4 <= first_row {
        return;
    }
    walk(thread.xy, index, first_row, first_column, (params.tokens + 3u) / 4u);
    fold_block();
    store_block(block_of(thread.xy, first_row, first_column));
}
