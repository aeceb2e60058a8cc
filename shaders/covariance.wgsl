// covariance: the upper triangle of Xᵀ·X, summed in short chunks.
//   c[i, j] (+)= sum over chunks ( sum over the chunk's tokens x[t, i] * x[t, j] )  for i <= j; tiles below the diagonal are not touched
//   x         [width, tokens]             f32, as transpose.wgsl leaves it: zero beyond the last token
//   c         [width, width]              f32
//   dispatch  (ceil(rows / tile rows), ceil(width / tile columns), 1) for the rows first_row .. end_row of c
// A chunk is 64 tokens. One running f32 sum over thousands of tokens loses the small eigenvalues to the few tokens of huge norm. What a thread
// reads lies side by side; neighbouring workgroups have the same columns, which therefore stay in the caches.
struct Params {
    tokens: u32,
    width: u32,
    x_stride4: u32,
    c_stride: u32,
    first_row: u32,
    end_row: u32,
    accumulate: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [width, stride]
@group(0) @binding(2) var<storage, read_write> c: array<f32>;          // [rows, stride]

const CHUNK4: u32 = 16u;

// Four tokens of four coordinates. Beyond the last coordinate, the last four again.
fn tokens4(coordinate: u32, step4: u32) -> mat4x4<f32> {
    let at = min(coordinate, (params.width + 3u) / 4u * 4u - 4u) * params.x_stride4 + step4;
    return transpose(mat4x4(x[at], x[at + params.x_stride4], x[at + 2u * params.x_stride4], x[at + 3u * params.x_stride4]));
}

fn left(row: u32, step4: u32) -> mat4x4<f32> {
    return tokens4(row, step4);
}

fn right(column: u32, step4: u32) -> mat4x4<f32> {
    return tokens4(column, step4);
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
        if column + i < params.width {
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
    // Long columns of the triangle and short ones in turn: where a device deals out the grid in halves, both have the same to do.
    let tile_column = select(group.y / 2u, groups.y - 1u - group.y / 2u, group.y % 2u == 1u);
    let first_row = params.first_row + 4u * ROWS4 * group.x;
    let first_column = 4u * COLUMNS4 * tile_column;
    if first_column + 4u * COLUMNS4 <= first_row {
        return;
    }
    walk(thread.xy, index, first_row, first_column, (params.tokens + 3u) / 4u);
    fold_block();
    store_block(block_of(thread.xy, first_row, first_column));
}
