// gemm_naive: C = A·Wᵀ with one result a thread and no tiles: kept to show what the shared product is worth, used by
// the bench alone.
//   c[m, n] = sum_k a[m, k] * w[n, k]
//   a         [M, K]  f32
//   w         [N, K]  f32
//   c         [M, N]  f32
//   dispatch  (ceil(N / 8), ceil(M / 8), 1)
struct Params {
    m: u32,
    n: u32,
    k: u32,
    a_stride: u32,
    w_stride: u32,
    c_stride: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;                // [M, stride]
@group(0) @binding(2) var<storage, read> w: array<f32>;                // [N, stride]
@group(0) @binding(3) var<storage, read_write> c: array<f32>;          // [M, stride]

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    if thread.x >= params.n || thread.y >= params.m {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.k; k += 1u) {
        sum += a[thread.y * params.a_stride + k] * w[thread.x * params.w_stride + k];
    }
    c[thread.y * params.c_stride + thread.x] = sum;
}
