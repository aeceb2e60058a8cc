// gemv: C (+)= A·Wᵀ + bias for up to four rows of A, where a tile would be mostly empty: decoding a token reads every weight once.
//   c[m, column + n] (+)= sum_k a[m, k] * w[n, k] + bias[n]
//   dispatch  (groups of 64 / LANES rows of w, 1, 1)   LANES threads along each row of w, so that few rows still fill the GPU
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

const ROWS: u32 = 64u / LANES;

var<workgroup> partial: array<vec4<f32>, 64>;                          // [row of w][lane], a component for each row of A

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let n = ROWS * group.x + thread.y;
    // A component for each of four consecutive steps.
    var sum0 = vec4(0.0);
    var sum1 = vec4(0.0);
    var sum2 = vec4(0.0);
    var sum3 = vec4(0.0);
    if n < params.n {
        let row1 = min(1u, params.m - 1u) * params.a_stride4;
        let row2 = min(2u, params.m - 1u) * params.a_stride4;
        let row3 = min(3u, params.m - 1u) * params.a_stride4;
        for (var i = thread.x; i < params.k4; i += LANES) {
            let weight = load_w(n * params.w_stride4 + i);
            sum0 += a[i] * weight;
            if M > 1u { sum1 += a[row1 + i] * weight; }
            if M > 2u { sum2 += a[row2 + i] * weight; }
            if M > 2u { sum3 += a[row3 + i] * weight; }
        }
    }
    partial[index] = vec4(dot(sum0, vec4(1.0)), dot(sum1, vec4(1.0)), dot(sum2, vec4(1.0)), dot(sum3, vec4(1.0)));
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if thread.x < half {
            partial[index] += partial[index + half];
        }
        workgroupBarrier();
    }
    if thread.x < params.m && n < params.n {
        let at = thread.x * params.c_stride + params.c_column + n;
        var result = partial[thread.y * LANES][thread.x];
        if params.has_bias != 0u { result += bias[params.bias_column + n]; }
        if params.accumulate != 0u { result += c[at]; }
        c[at] = result;
    }
}
