// gemv: C (+)= A·Wᵀ + bias for a few rows of A, where a 64x64 tile would be mostly empty: decoding one token reads every weight once.
//   c[m, column + n] (+)= sum_k a[m, k] * w[n, k] + bias[n]
//   dispatch  (ceil(N / 8), M, 1)   eight rows of w a workgroup, eight threads along each
struct Params {
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
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;          // [M, stride], f32
// binding 2: w                                                        // [N, K], f32 | f16 | bf16
@group(0) @binding(3) var<storage, read> bias: array<f32>;             // [N]
@group(0) @binding(4) var<storage, read_write> c: array<f32>;          // [M, stride]

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let n = 8u * group.x + thread.y;
    let m = group.y;
    var sum = vec4(0.0);
    if n < params.n {
        for (var i = thread.x; i < params.k4; i += 8u) {
            sum += a[m * params.a_stride4 + i] * load_w(n * params.w_stride4 + i);
        }
    }
    partial[index] = (sum.x + sum.y) + (sum.z + sum.w);
    workgroupBarrier();
    if thread.x == 0u && n < params.n {
        let p = index;
        var result = ((partial[p] + partial[p + 1u]) + (partial[p + 2u] + partial[p + 3u]))
            + ((partial[p + 4u] + partial[p + 5u]) + (partial[p + 6u] + partial[p + 7u]));
        let at = m * params.c_stride + params.c_column + n;
        if params.has_bias != 0u { result += bias[params.bias_column + n]; }
        if params.accumulate != 0u { result += c[at]; }
        c[at] = result;
    }
}
