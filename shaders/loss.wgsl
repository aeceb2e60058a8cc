// loss: log-softmax over a vocabulary that arrives in slices.
//   state[t] = (m, s, z, _): the maximum so far, the sum of exp(logit - m) so far, the logit of the target once it
//   has passed
//   so that -log p(target) = m + log(s) - z after the last slice; start from (-1e30, 0, 0, 0)
//   logits    [tokens, width] f32, the vocabulary entries first .. first + width
//   targets   [tokens] u32
//   dispatch  one workgroup a token, folded into (x, y)
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;           // [tokens, stride]
@group(0) @binding(2) var<storage, read> targets: array<u32>;          // [tokens]
@group(0) @binding(3) var<storage, read_write> state: array<vec4<f32>>; // [tokens]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups);
    if token >= params.tokens {
        return;
    }
    let start = token * params.stride;
    var highest = -1e30;
    for (var i = index; i < params.width; i += 64u) {
        highest = max(highest, logits[start + i]);
    }
    let before = state[token];
    let top = max(before.x, reduce_max(highest, index));
    var sum = 0.0;
    for (var i = index; i < params.width; i += 64u) {
        sum += exp(logits[start + i] - top);
    }
    let total = before.y * exp(before.x - top) + reduce_sum(sum, index);
    if index == 0u {
        var z = before.z;
        let target_id = targets[token];
        if target_id >= params.first && target_id - params.first < params.width {
            z = logits[start + target_id - params.first];
        }
        state[token] = vec4(top, total, z, 0.0);
    }
}
