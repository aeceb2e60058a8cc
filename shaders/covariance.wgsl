// covariance: the upper triangle of Xᵀ·X, summed in short chunks.
//   c[i, j] (+)= sum over chunks ( sum over the chunk's tokens x[t, i] * x[t, j] )  for i <= j; tiles below the diagonal are not touched
//   x         [tokens, width]  f32
//   c         [width, width]   f32
//   dispatch  (ceil(width / tile columns), ceil(rows / tile rows), 1) for the rows first_row .. end_row of c and the tokens
//             first_token .. tokens of x
// A chunk is 64 tokens. One running f32 sum over thousands of tokens loses the small eigenvalues to the few tokens of huge norm.
struct Params {
    tokens: u32,
    width: u32,
    stride4: u32,
    first_row: u32,
    end_row: u32,
    first_token: u32,
    accumulate: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> c: array<f32>;          // [rows, stride]

const CHUNK4: u32 = 16u;

// Four tokens of four columns; beyond the last token, the last again.
fn tokens4(column: u32, step4: u32) -> mat4x4<f32> {
    let last = params.tokens - 1u;
    let at = min(column / 4u, params.stride4 - 1u);
    let token = 4u * step4;
    return mat4x4(
        x[token * params.stride4 + at],
        x[min(token + 1u, last) * params.stride4 + at],
        x[min(token + 2u, last) * params.stride4 + at],
        x[min(token + 3u, last) * params.stride4 + at],
    );
}

fn left(row: u32, step4: u32) -> mat4x4<f32> {
    let tokens = tokens4(row, step4);
    let inside = params.tokens - 4u * step4;
    return mat4x4(
        tokens[0],
        select(vec4(0.0), tokens[1], inside > 1u),
        select(vec4(0.0), tokens[2], inside > 2u),
        select(vec4(0.0), tokens[3], inside > 3u),
    );
}

fn right(column: u32, step4: u32) -> mat4x4<f32> {
    return tokens4(column, step4);
}

fn store4(row: u32, column: u32, values: vec4<f32>) {
    if row >= params.end_row {
        return;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.width {
            let at = (row - params.first_row) * 4u * params.stride4 + column + i;
            c[at] = select(values[i], c[at] + values[i], params.accumulate != 0u);
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
    // Long rows of the triangle and short ones in turn: where a device deals out the grid in halves, both have the same to do.
    let tile_row = select(group.y / 2u, groups.y - 1u - group.y / 2u, group.y % 2u == 1u);
    let first_row = params.first_row + 4u * ROWS4 * tile_row;
    let first_column = 4u * COLUMNS4 * group.x;
    if first_column + 4u * COLUMNS4 <= first_row {
        return;
    }
    let end4 = (params.tokens + 3u) / 4u;
    for (var chunk4 = params.first_token / 4u; chunk4 < end4; chunk4 += CHUNK4) {
        walk(thread.xy, index, first_row, first_column, chunk4, min(chunk4 + CHUNK4, end4));
        fold_block();
    }
    store_block(block_of(thread.xy, first_row, first_column));
}
