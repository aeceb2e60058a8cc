// gemm: C (+)= A·Wᵀ + bias, or A·W + bias.
//   c[m, column + n] (+)= sum_k a[m, a_column + k] * w[n, k] + bias[n]     (W_ROWS_ARE_STEPS = 0: a linear layer, w [N, K])
//   c[m, column + n] (+)= sum_k a[m, a_column + k] * w[k, n] + bias[n]     (W_ROWS_ARE_STEPS = 1: w [K, N])
//   dispatch  (ceil(N / 64), ceil(M / 64), 1)
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

// Four rows and four steps, turned so that each vec4 holds four rows of one step.
fn stage_a(block: u32, first_row: u32, first_step4: u32) {
    let step4 = block % 4u;
    let row4 = block / 4u;
    var rows = mat4x4<f32>();
    if first_step4 + step4 < (params.k + 3u) / 4u {
        let row = first_row + 4u * row4;
        let at = row * params.a_stride4 + params.a_column4 + first_step4 + step4;
        if row < params.m { rows[0] = a[at]; }
        if row + 1u < params.m { rows[1] = a[at + params.a_stride4]; }
        if row + 2u < params.m { rows[2] = a[at + 2u * params.a_stride4]; }
        if row + 3u < params.m { rows[3] = a[at + 3u * params.a_stride4]; }
    }
    let steps = transpose(rows);
    tile_a[(4u * step4) * TILE4 + row4] = steps[0];
    tile_a[(4u * step4 + 1u) * TILE4 + row4] = steps[1];
    tile_a[(4u * step4 + 2u) * TILE4 + row4] = steps[2];
    tile_a[(4u * step4 + 3u) * TILE4 + row4] = steps[3];
}

fn stage_w_transposed(block: u32, first_row: u32, first_step4: u32) {
    let step4 = block % 4u;
    let row4 = block / 4u;
    var rows = mat4x4<f32>();
    if first_step4 + step4 < (params.k + 3u) / 4u {
        let row = first_row + 4u * row4;
        let at = row * params.w_stride4 + first_step4 + step4;
        if row < params.n { rows[0] = load_w(at); }
        if row + 1u < params.n { rows[1] = load_w(at + params.w_stride4); }
        if row + 2u < params.n { rows[2] = load_w(at + 2u * params.w_stride4); }
        if row + 3u < params.n { rows[3] = load_w(at + 3u * params.w_stride4); }
    }
    let steps = transpose(rows);
    tile_b[(4u * step4) * TILE4 + row4] = steps[0];
    tile_b[(4u * step4 + 1u) * TILE4 + row4] = steps[1];
    tile_b[(4u * step4 + 2u) * TILE4 + row4] = steps[2];
    tile_b[(4u * step4 + 3u) * TILE4 + row4] = steps[3];
}

fn stage_w_plain(block: u32, first_column4: u32, first_step: u32) {
    let column4 = block % TILE4;
    let inside = first_column4 + column4 < (params.n + 3u) / 4u;
    for (var i = 0u; i < 4u; i += 1u) {
        let step = 4u * (block / TILE4) + i;
        var value = vec4(0.0);
        if inside && first_step + step < params.k {
            value = load_w((first_step + step) * params.w_stride4 + first_column4 + column4);
        }
        tile_b[step * TILE4 + column4] = value;
    }
}

fn store4(row: u32, column: u32, value: vec4<f32>) {
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.n {
            let at = row * params.c_stride + params.c_column + column + i;
            var result = value[i];
            if params.has_bias != 0u { result += bias[params.bias_column + column + i]; }
            if params.accumulate != 0u { result += c[at]; }
            c[at] = result;
        }
    }
}

fn store_row(row: u32, column: u32, left: vec4<f32>, right: vec4<f32>) {
    if row < params.m {
        store4(row, column, left);
        store4(row, column + 4u, right);
    }
}

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    clear_tile();
    for (var first_step = 0u; first_step < params.k; first_step += STEPS) {
        stage_a(index, TILE * group.y, first_step / 4u);
        if W_ROWS_ARE_STEPS == 1u {
            stage_w_plain(index, TILE4 * group.x, first_step);
        } else {
            stage_w_transposed(index, TILE * group.x, first_step / 4u);
        }
        workgroupBarrier();
        multiply_tile(thread.xy);
        workgroupBarrier();
    }
    store_tile(TILE * group.y, TILE * group.x, thread.xy);
}
