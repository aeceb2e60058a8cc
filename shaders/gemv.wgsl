// gemv: C (+)= A·Wᵀ + bias for up to four rows of A, where a tile would be mostly empty: decoding a token reads every
// weight once.
//   c[m, column + n] (+)= sum_k a[m, k] * w[n, k] + bias[n]
//   dispatch  (groups of 4 * ROWS4 * 64 / LANES rows of w, 1, 1)
// A thread takes 4 * ROWS4 rows of w, for which it reads A once, and every LANES-th group of four steps. ROWS4 is 2
// for one row of A only.
struct Params {
    m: u32,
    n: u32,
    k4: u32,
    a_stride4: u32,
    w_stride4: u32,
    c_stride: u32,
    c_column: u32,
    bias_column: u32,
    has_bias: u32,
    accumulate: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;          // [M, stride], f32
// binding 2: w                                                        // [N, K], f32 | f16 | bf16
@group(0) @binding(3) var<storage, read> bias: array<f32>;             // [N]
@group(0) @binding(4) var<storage, read_write> c: array<f32>;          // [M, stride]

const GROUPS: u32 = 64u / LANES;
// So many partial sums are added up by one thread: fewer barriers than halving them to the end.
const ADDED: u32 = 8u;

var<workgroup> partial: array<vec4<f32>, 64>;                          // [group of four rows of w][lane]

// Sums for four values of a row of A: a matrix column for each row of w, four consecutive steps in each.
fn add(sums: ptr<function, mat4x4<f32>>, x: vec4<f32>, w: mat4x4<f32>) {
    (*sums)[0] += x * w[0];
    (*sums)[1] += x * w[1];
    (*sums)[2] += x * w[2];
    (*sums)[3] += x * w[3];
}

// Four steps of the rows n .. n+3 of w; beyond the last row, of the last.
fn load_rows(n: u32, i: u32) -> mat4x4<f32> {
    let last = params.n - 1u;
    return mat4x4(
        load_w(min(n, last) * params.w_stride4 + i),
        load_w(min(n + 1u, last) * params.w_stride4 + i),
        load_w(min(n + 2u, last) * params.w_stride4 + i),
        load_w(min(n + 3u, last) * params.w_stride4 + i),
    );
}

// Adds up over the lanes and stores the results of row m of A.
fn store(sums: mat4x4<f32>, m: u32, n: u32, lane: u32, index: u32) {
    partial[index] = vec4(1.0) * sums;
    workgroupBarrier();
    for (var half = LANES / 2u; half >= ADDED; half /= 2u) {
        if lane < half {
            partial[index] += partial[index + half];
        }
        workgroupBarrier();
    }
    if lane < 4u && n + lane < params.n && m < params.m {
        let at = m * params.c_stride + params.c_column + n + lane;
        var result = 0.0;
        for (var other = 0u; other < ADDED; other += 1u) {
            result += partial[index - lane + other][lane];
        }
        if params.has_bias != 0u { result += bias[params.bias_column + n + lane]; }
        if params.accumulate != 0u { result += c[at]; }
        c[at] = result;
    }
    workgroupBarrier();
}

@compute @workgroup_size(LANES, GROUPS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let n = 4u * ROWS4 * (GROUPS * group.x + thread.y);
    var sums0 = mat4x4<f32>();
    var sums1 = mat4x4<f32>();
    var sums2 = mat4x4<f32>();
    var sums3 = mat4x4<f32>();
    var more = mat4x4<f32>();
    for (var i = thread.x; i < params.k4; i += LANES) {
        let x = a[i];
        let w = load_rows(n, i);
        add(&sums0, x, w);
        if ROWS4 > 1u { add(&more, x, load_rows(n + 4u, i)); }
        if M > 1u { add(&sums1, a[params.a_stride4 + i], w); }
        if M > 2u { add(&sums2, a[2u * params.a_stride4 + i], w); }
        if M > 3u { add(&sums3, a[3u * params.a_stride4 + i], w); }
    }
    store(sums0, 0u, n, thread.x, index);
    if ROWS4 > 1u { store(more, 0u, n + 4u, thread.x, index); }
    if M > 1u { store(sums1, 1u, n, thread.x, index); }
    if M > 2u { store(sums2, 2u, n, thread.x, index); }
    if M > 3u { store(sums3, 3u, n, thread.x, index); }
}
