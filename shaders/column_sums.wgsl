// column_sums: sums over tokens, of values or of products, in short chunks: gradients of biases and of the weights of
// norms.
//   sums[i] (+)= sum over chunks ( sum over the chunk's tokens a[t, column + i] * (b[t, column + i], or 1) )
//   a, b      [tokens, stride]  f32
//   sums      [columns]         f32
//   dispatch  (ceil(columns / 64), 1, 1), one thread a column
// A chunk is 64 tokens, as in covariance.wgsl.
struct Params {
    tokens: u32,
    stride: u32,
    column: u32,
    columns: u32,
    has_b: u32,
    accumulate: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;                // [tokens, stride]
@group(0) @binding(2) var<storage, read> b: array<f32>;                // [tokens, stride]
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;       // [columns]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    if thread.x >= params.columns {
        return;
    }
    var sum = 0.0;
    for (var first = 0u; first < params.tokens; first += 64u) {
        let end = min(first + 64u, params.tokens);
        var chunk = 0.0;
        for (var token = first; token < end; token += 1u) {
            let at = token * params.stride + params.column + thread.x;
            var value = a[at];
            if params.has_b != 0u { value *= b[at]; }
            chunk += value;
        }
        sum += chunk;
    }
    if params.accumulate != 0u { sum += sums[thread.x]; }
    sums[thread.x] = sum;
}
