// route_backward: the gradient of a router's logits from that of the gates of the chosen experts.
//   s_j    = exp(logits[t, ids[t, j]]) / sum over all experts, or over the chosen ones if `normalised`: the gates
//   mean   = sum_j s_j * d[t, j]
//   dl[t, ids[t, j]] = s_j * (d[t, j] - mean)
//   dl[t, e]         = -s_e * mean of an expert e that was not chosen, 0 if `normalised`
//   logits, dl  [tokens, stride]  f32
//   ids         [tokens, chosen]  u32, no expert twice for a token
//   d           [tokens, chosen]  f32
//   dispatch    one workgroup a token, folded into (x, y)
// Which experts are chosen is constant: the gradient is that of a choice that stays.
struct Params {
    tokens: u32,
    experts: u32,
    stride: u32,
    d_stride: u32,
    chosen: u32,
    normalised: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;           // [tokens, stride]
@group(0) @binding(2) var<storage, read> ids: array<u32>;              // [tokens, chosen]
@group(0) @binding(3) var<storage, read> d: array<f32>;                // [tokens, chosen]
@group(0) @binding(4) var<storage, read_write> dl: array<f32>;         // [tokens, d_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups);
    // Workgroups beyond the last token go along through the barriers, with nothing to do.
    let experts = select(0u, params.experts, token < params.tokens);
    let chosen = select(0u, params.chosen, token < params.tokens);
    let start = token * params.stride;
    let first = token * params.chosen;
    var most = -3.4e38;
    for (var e = index; e < experts; e += 64u) {
        most = max(most, logits[start + e]);
    }
    most = reduce_max(most, index);
    var all = 0.0;
    for (var e = index; e < experts; e += 64u) {
        all += exp(logits[start + e] - most);
    }
    all = reduce_sum(all, index);
    var among = 0.0;
    var mean = 0.0;
    for (var j = index; j < chosen; j += 64u) {
        let share = exp(logits[start + ids[first + j]] - most);
        among += share;
        mean += share * d[first + j];
    }
    among = reduce_sum(among, index);
    mean = reduce_sum(mean, index);
    let total = select(all, among, params.normalised != 0u);
    mean /= total;
    for (var e = index; e < experts; e += 64u) {
        let share = exp(logits[start + e] - most) / total;
        dl[token * params.d_stride + e] = select(-share * mean, 0.0, params.normalised != 0u);
    }
    storageBarrier();
    for (var j = index; j < chosen; j += 64u) {
        let e = ids[first + j];
        let share = exp(logits[start + e] - most) / total;
        dl[token * params.d_stride + e] = share * (d[first + j] - mean);
    }
}
