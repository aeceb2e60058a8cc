// covariance: the upper triangle of Xᵀ·X, summed in short chunks.
//   c[i, j] = sum over chunks ( sum over the chunk's tokens x[t, i] * x[t, j] )     for i <= j; tiles below the diagonal are not touched
//   x         [tokens, width]  f32
//   c         [width, width]   f32
//   dispatch  (ceil(width / tile columns), ceil(rows / tile rows), 1) for the rows first_row .. first_row + rows of c
// A chunk is 64 tokens. One running f32 sum over thousands of tokens loses the small eigenvalues to the few tokens of huge norm.
struct Params {
    tokens: u32,
    width: u32,
    stride4: u32,
    first_row: u32,
    end_row: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> c: array<f32>;          // [rows, stride]

const CHUNK4: u32 = 16u;

fn token4(column: u32, step4: u32) -> mat4x4<f32> {
    let at = min(column / 4u, params.stride4 - 1u);
    let token = 4u * step4;
    var tokens = mat4x4<f32>();
    tokens[0] = x[token * params.stride4 + at];
    if token + 1u < params.tokens { tokens[1] = x[(token + 1u) * params.stride4 + at]; }
    if token + 2u < params.tokens { tokens[2] = x[(token + 2u) * params.stride4 + at]; }
    if token + 3u < params.tokens { tokens[3] = x[(token + 3u) * params.stride4 + at]; }
    return tokens;
}

fn left(row: u32, step4: u32) -> mat4x4<f32> {
    return token4(row, step4);
}

fn right(column: u32, step4: u32) -> mat4x4<f32> {
    return token4(column, step4);
}

fn store4(row: u32, column: u32, values: vec4<f32>) {
    if row >= params.end_row {
        return;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.width {
            c[(row - params.first_row) * 4u * params.stride4 + column + i] = values[i];
        }
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let first_row = params.first_row + 4u * ROWS4 * group.y;
    let first_column = 4u * COLUMNS4 * group.x;
    if first_column + 4u * COLUMNS4 <= first_row {
        return;
    }
    let end4 = (params.tokens + 3u) / 4u;
    for (var chunk4 = 0u; chunk4 < end4; chunk4 += CHUNK4) {
        walk(thread.xy, index, first_row, first_column, chunk4, min(chunk4 + CHUNK4, end4));
        fold_block();
    }
    store_block(block_of(thread.xy, first_row, first_column));
}
