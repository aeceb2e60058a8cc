// short_conv: causal depthwise convolution over a few tokens, and silu.
//   y[t, c] = silu(sum_j weight[taps - 1 - j, c] * x[row - j, c])   for j < min(taps, seen)
//   x         [rows, x_stride]   f32; channels are its first columns
//   weight    [taps, w_stride]   f32
//   places    [tokens]           (row of the token in x, tokens that it sees with itself)
//   y         [tokens, y_stride] f32
//   dispatch  (parts of a row, tokens folded into (y, z)); 256 channels a workgroup
// Before the first token of a sequence are zeros, which no row holds.
struct Params {
    tokens: u32,
    channels: u32,
    taps: u32,
    x_stride: u32,
    w_stride: u32,
    y_stride: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [rows, x_stride]
@group(0) @binding(2) var<storage, read> weight: array<f32>;           // [taps, w_stride]
@group(0) @binding(3) var<storage, read> places: array<vec2<u32>>;     // [tokens]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;          // [tokens, y_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = folded_row(group, groups);
    if token >= params.tokens {
        return;
    }
    let place = places[token];
    let seen = min(place.y, params.taps);
    let end = min((group.x + 1u) * 256u, params.channels);
    for (var c = group.x * 256u + index; c < end; c += 64u) {
        var sum = 0.0;
        for (var j = 0u; j < seen; j += 1u) {
            sum += weight[(params.taps - 1u - j) * params.w_stride + c] * x[(place.x - j) * params.x_stride + c];
        }
        y[token * params.y_stride + c] = sum / (1.0 + exp(-sum));
    }
}
