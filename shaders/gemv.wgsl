// gemv: C (+)= A·Wᵀ + bias for up to four rows of A, where a tile would be mostly empty: decoding a token reads every weight once.
//   c[m, column + n] (+)= sum_k a[m, k] * w[n, k] + bias[n]
//   dispatch  (groups of 4 * 64 / LANES rows of w, 1, 1)
// A thread takes four rows of w, for which it reads A once, and every LANES-th group of four steps.
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

var<workgroup> partial: array<vec4<f32>, 64>;                          // [group of four rows of w][lane]

// Sums for one row of A: a matrix column for each row of w, four consecutive steps in each.
fn add(sums: ptr<function, mat4x4<f32>>, at: u32, w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>) {
    let x = a[at];
    (*sums)[0] += x * w0;
    (*sums)[1] += x * w1;
    (*sums)[2] += x * w2;
    (*sums)[3] += x * w3;
}

// Adds up over the lanes and stores the results of row m of A.
fn store(sums: mat4x4<f32>, m: u32, n: u32, lane: u32, index: u32) {
    partial[index] = vec4(1.0) * sums;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partial[index] += partial[index + half];
        }
        workgroupBarrier();
    }
    if lane < 4u && n + lane < params.n && m < params.m {
        let at = m * params.c_stride + params.c_column + n + lane;
        var result = partial[index - lane][lane];
        if params.has_bias != 0u { result += bias[params.bias_column + n + lane]; }
        if params.accumulate != 0u { result += c[at]; }
        c[at] = result;
    }
    workgroupBarrier();
}

@compute @workgroup_size(LANES, GROUPS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let n = 4u * (GROUPS * group.x + thread.y);
    let last = params.n - 1u;
    let row0 = min(n, last) * params.w_stride4;
    let row1 = min(n + 1u, last) * params.w_stride4;
    let row2 = min(n + 2u, last) * params.w_stride4;
    let row3 = min(n + 3u, last) * params.w_stride4;
    var sums0 = mat4x4<f32>();
    var sums1 = mat4x4<f32>();
    var sums2 = mat4x4<f32>();
    var sums3 = mat4x4<f32>();
    for (var i = thread.x; i < params.k4; i += LANES) {
        let w0 = load_w(row0 + i);
        let w1 = load_w(row1 + i);
        let w2 = load_w(row2 + i);
        let w3 = load_w(row3 + i);
        add(&sums0, i, w0, w1, w2, w3);
        if M > 1u { add(&sums1, params.a_stride4 + i, w0, w1, w2, w3); }
        if M > 2u { add(&sums2, 2u * params.a_stride4 + i, w0, w1, w2, w3); }
        if M > 3u { add(&sums3, 3u * params.a_stride4 + i, w0, w1, w2, w3); }
    }
    store(sums0, 0u, n, thread.x, index);
    if M > 1u { store(sums1, 1u, n, thread.x, index); }
    if M > 2u { store(sums2, 2u, n, thread.x, index); }
    if M > 3u { store(sums3, 3u, n, thread.x, index); }
}
