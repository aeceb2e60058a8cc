// loss_backward: the gradient of the logits of a slice of the vocabulary from the finished state of loss.wgsl.
//   d[t, i] = factor * (exp(logits[t, i] - m) / s - [targets[t] = first + i]); zero for tokens without a target
//   (0xffffffff)
//   logits, d [tokens, width] f32, the vocabulary entries first .. first + width
//   targets   [tokens] u32
//   state     [tokens] (m, s, _, _)
//   dispatch  one workgroup a token, folded into (x, y)
struct Params {
    tokens: u32,
    width: u32,
    stride: u32,
    first: u32,
    factor: f32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;           // [tokens, stride]
@group(0) @binding(2) var<storage, read> targets: array<u32>;          // [tokens]
@group(0) @binding(3) var<storage, read> state: array<vec4<f32>>;      // [tokens]
@group(0) @binding(4) var<storage, read_write> d: array<f32>;          // [tokens, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups);
    if token >= params.tokens {
        return;
    }
    let start = token * params.stride;
    let target_id = targets[token];
    let found = state[token];
    let factor = select(params.factor, 0.0, target_id == 0xffffffffu);
    for (var i = index; i < params.width; i += 64u) {
        let hit = select(0.0, 1.0, target_id == params.first + i);
        d[start + i] = factor * (exp(logits[start + i] - found.x) / found.y - hit);
    }
}
