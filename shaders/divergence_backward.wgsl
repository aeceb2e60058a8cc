// divergence_backward: the gradient of KL(p || q) by q's logits, from the finished state of divergence.wgsl.
//   d[t, i] = factor * (exp(sharpness * q[t, i] - n) / r - exp(sharpness * p[t, i] - m) / s)
//   p, q, d   [tokens, width] f32, logits of the vocabulary entries of a slice; all of the same stride
//   state     [3 * tokens], state[3t] = (m, s, n, r)
//   dispatch  one workgroup a token, folded into (x, y)
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    factor: f32,
    sharpness: f32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> p: array<f32>;                // [tokens, stride]
@group(0) @binding(2) var<storage, read> q: array<f32>;                // [tokens, stride]
@group(0) @binding(3) var<storage, read> state: array<vec4<f32>>;      // [3 * tokens]
@group(0) @binding(4) var<storage, read_write> d: array<f32>;          // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups);
    if token >= params.tokens {
        return;
    }
    let start = token * params.stride;
    let found = state[3u * token];
    for (var i = index; i < params.width; i += 64u) {
        let sharp = params.sharpness * vec2(p[start + i], q[start + i]);
        d[start + i] = params.factor * (exp(sharp.y - found.z) / found.w - exp(sharp.x - found.x) / found.y);
    }
}
