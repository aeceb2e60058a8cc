// cross_covariance: some columns of Aᵀ·B, summed in short chunks.
//   c[i, j] (+)= sum over chunks ( sum over the chunk's tokens a[t, a_column + i] * b[t, b_column + j] )
//   a         [tokens, width of a]  f32
//   b         [tokens, width of b]  f32
//   c         [rows, cols]          f32
//   dispatch  (ceil(cols / tile columns), ceil(rows / tile rows), 1) for the rows first_row .. end_row of c
// A chunk is 64 tokens, as in covariance. a_column and b_column are multiples of 4.
struct Params {
    tokens: u32,
    accumulate: u32,
    first_row: u32,
    end_row: u32,
    cols: u32,
    c_stride: u32,
    a_stride4: u32,
    b_stride4: u32,
    a_column4: u32,
    b_column4: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(3) var<storage, read_write> c: array<f32>;          // [rows, stride]

const CHUNK4: u32 = 16u;

// Four tokens of four columns; beyond the last token, zero.
fn left(row: u32, step4: u32) -> mat4x4<f32> {
    let last = params.tokens - 1u;
    let at = min(params.a_column4 + row / 4u, params.a_stride4 - 1u);
    let token = 4u * step4;
    let inside = params.tokens - token;
    return mat4x4(
        a[token * params.a_stride4 + at],
        select(vec4(0.0), a[min(token + 1u, last) * params.a_stride4 + at], inside > 1u),
        select(vec4(0.0), a[min(token + 2u, last) * params.a_stride4 + at], inside > 2u),
        select(vec4(0.0), a[min(token + 3u, last) * params.a_stride4 + at], inside > 3u),
    );
}

// The same of b; beyond the last token, the last again, which meets a zero.
fn right(column: u32, step4: u32) -> mat4x4<f32> {
    let last = params.tokens - 1u;
    let at = min(params.b_column4 + column / 4u, params.b_stride4 - 1u);
    let token = 4u * step4;
    return mat4x4(
        b[token * params.b_stride4 + at],
        b[min(token + 1u, last) * params.b_stride4 + at],
        b[min(token + 2u, last) * params.b_stride4 + at],
        b[min(token + 3u, last) * params.b_stride4 + at],
    );
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
        if column + i < params.cols {
            let at = (row - params.first_row) * params.c_stride + column + i;
            c[at] = select(values[i], c[at] + values[i], params.accumulate != 0u);
        }
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let first_row = params.first_row + 4u * ROWS4 * group.y;
    let first_column = 4u * COLUMNS4 * group.x;
    walk(thread.xy, index, first_row, first_column, (params.tokens + 3u) / 4u);
    fold_block();
    store_block(block_of(thread.xy, first_row, first_column));
}
