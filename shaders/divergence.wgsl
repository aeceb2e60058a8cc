// divergence: two models' logits side by side, over a vocabulary that arrives in slices.
//   state[3t]     = (m, s, n, r): maximum m of p's logits so far and the sum s of exp(p - m); n and r the same of q
//   state[3t + 1] = (u, i, j, _): the sum u of exp(p - m) (p - q); the entries i and j of the maxima, the first ones
//   state[3t + 2] = (y, z, _, _): the logits of the target in p and q once it has passed
//   so that KL(p || q) = u / s - (m + log s) + (n + log r) after the last slice; start from (-1e30, 0, -1e30, 0), 0, 0
//   p, q      [tokens, width] f32, the vocabulary entries first .. first + width; both of the same stride, and all
//             logits taken times sharpness, which is one over a temperature
//   dispatch  one workgroup a token, folded into (x, y)
// Entries are counted in f32, which holds all of them below 2^24.
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    first: u32,
    sharpness: f32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> p: array<f32>;                 // [tokens, stride]
@group(0) @binding(2) var<storage, read> q: array<f32>;                 // [tokens, stride]
@group(0) @binding(3) var<storage, read> targets: array<u32>;           // [tokens]
@group(0) @binding(4) var<storage, read_write> state: array<vec4<f32>>; // [3 * tokens]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups);
    if token >= params.tokens {
        return;
    }
    let start = token * params.stride;
    var highest = vec2(-1e30);
    for (var i = index; i < params.width; i += 64u) {
        highest = max(highest, params.sharpness * vec2(p[start + i], q[start + i]));
    }
    let slice = vec2(reduce_max(highest.x, index), reduce_max(highest.y, index));
    let before = state[3u * token];
    let top = max(before.xz, slice);
    var sums = vec2(0.0);
    var weighted = 0.0;
    var entry = vec2(-1e30);
    for (var i = index; i < params.width; i += 64u) {
        let value = params.sharpness * vec2(p[start + i], q[start + i]);
        let part = exp(value - top);
        sums += part;
        weighted += part.x * (value.x - value.y);
        entry = select(entry, max(entry, vec2(-f32(params.first + i))), value == slice);
    }
    let faded = exp(before.xz - top);
    let p_sum = before.y * faded.x + reduce_sum(sums.x, index);
    let q_sum = before.w * faded.y + reduce_sum(sums.y, index);
    let between = state[3u * token + 1u];
    let total = between.x * faded.x + reduce_sum(weighted, index);
    let found = -vec2(reduce_max(entry.x, index), reduce_max(entry.y, index));
    if index == 0u {
        state[3u * token] = vec4(top.x, p_sum, top.y, q_sum);
        state[3u * token + 1u] = vec4(total, select(between.yz, found, slice > before.xz), 0.0);
        let target_id = targets[token];
        if target_id >= params.first && target_id - params.first < params.width {
            let at = start + target_id - params.first;
            state[3u * token + 2u] = vec4(params.sharpness * vec2(p[at], q[at]), 0.0, 0.0);
        }
    }
}
