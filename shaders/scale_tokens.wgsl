// scale_tokens: every token divided by the root mean square of another signal's token, and weighted.
//   y[t, i] = y[t, i] * sqrt(w[t] / (e[t] / norm_width + eps))
//   y         [tokens, width]  f32, in place
//   e         [tokens]         f32, squared lengths of the other signal
//   w         [tokens]         f32, how much the square of each token counts; not read where WEIGHTED is 0, for 1
//   dispatch  one workgroup a token, folded into (x, y)
struct Params {
    tokens: u32,
    stride4: u32,
    norm_width: f32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> e: array<f32>;                // [tokens]
@group(0) @binding(2) var<storage, read> w: array<f32>;                // [tokens]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;    // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups);
    if token >= params.tokens {
        return;
    }
    var scale = 1.0 / sqrt(e[token] / params.norm_width + params.eps);
    if WEIGHTED == 1u {
        scale *= sqrt(w[token]);
    }
    for (var i4 = index; i4 < params.stride4; i4 += 64u) {
        y[token * params.stride4 + i4] *= scale;
    }
}
