// gemm: C (+)= A·Wᵀ + bias, or A·W + bias.
//   c[m, column + n] (+)= sum_k a[m, a_column + k] * w[n, k] + bias[n]     (W_ROWS_ARE_STEPS = 0: a linear layer, w
//   [N, K])
//   c[m, column + n] (+)= sum_k a[m, a_column + k] * w[k, n] + bias[n]     (W_ROWS_ARE_STEPS = 1: w [K, N])
//   dispatch  (ceil(N / tile columns), ceil(M / tile rows), 1)
// Rows are padded with zeros to a multiple of four, so the last group of four steps adds nothing wrong.
struct Params {
    m: u32,
    n: u32,
    k: u32,
    a_stride4: u32,
    a_column4: u32,
    w_stride4: u32,
    c_stride: u32,
    c_column: u32,
    bias_column: u32,
    has_bias: u32,
    accumulate: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;          // [M, stride], f32
// binding 2: w                                                        // [N, K] or [K, N], f32 | f16 | bf16
@group(0) @binding(3) var<storage, read> bias: array<f32>;             // [N]
@group(0) @binding(4) var<storage, read_write> c: array<f32>;          // [M, stride]

fn left(row: u32, step4: u32) -> mat4x4<f32> {
    let last = params.m - 1u;
    let at = params.a_column4 + step4;
    return transpose(mat4x4(
        a[min(row, last) * params.a_stride4 + at],
        a[min(row + 1u, last) * params.a_stride4 + at],
        a[min(row + 2u, last) * params.a_stride4 + at],
        a[min(row + 3u, last) * params.a_stride4 + at],
    ));
}

fn right(column: u32, step4: u32) -> mat4x4<f32> {
    if W_ROWS_ARE_STEPS == 1u {
        // A step beyond the last would meet a zero of A, but zero times what lies there may not be zero.
        let at = min(column / 4u, params.w_stride4 - 1u);
        let step = 4u * step4;
        var steps = mat4x4<f32>();
        steps[0] = load_w(step * params.w_stride4 + at);
        if step + 1u < params.k { steps[1] = load_w((step + 1u) * params.w_stride4 + at); }
        if step + 2u < params.k { steps[2] = load_w((step + 2u) * params.w_stride4 + at); }
        if step + 3u < params.k { steps[3] = load_w((step + 3u) * params.w_stride4 + at); }
        return steps;
    }
    let last = params.n - 1u;
    return transpose(mat4x4(
        load_w(min(column, last) * params.w_stride4 + step4),
        load_w(min(column + 1u, last) * params.w_stride4 + step4),
        load_w(min(column + 2u, last) * params.w_stride4 + step4),
        load_w(min(column + 3u, last) * params.w_stride4 + step4),
    ));
}

fn after(_step4: u32) {}

fn store4(row: u32, column: u32, values: vec4<f32>) {
    if row >= params.m {
        return;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.n {
            let at = row * params.c_stride + params.c_column + column + i;
            var result = values[i];
            if params.has_bias != 0u { result += bias[params.bias_column + column + i]; }
            if params.accumulate != 0u { result += c[at]; }
            c[at] = result;
        }
    }
}

@compute @workgroup_size(THREADS_X, THREADS_Y)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let first_row = 4u * ROWS4 * group.y;
    let first_column = 4u * COLUMNS4 * group.x;
    walk(thread.xy, index, first_row, first_column, (params.k + 3u) / 4u);
    fold_block();
    store_block(block_of(thread.xy, first_row, first_column));
}
