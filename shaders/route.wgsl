// route: which experts a token goes to, and how much each of them counts.
//   p[t, e]     = exp(logits[t, e]) / sum_e exp(logits[t, e])
//   ids[t, j]   = the expert with the j-th largest logit of token t; of equals, the one with the lower number
//   gates[t, j] = p[t, ids[t, j]], divided by sum_j p[t, ids[t, j]] if `normalised`
//   logits    [tokens, experts]  f32
//   ids       [tokens, chosen]   u32, `experts` where no logit is a number
//   gates     [tokens, chosen]   f32
//   dispatch  one workgroup a token, folded into (x, y)
// A round finds the largest logit after the one found before, in the order of (logit, number): nothing is marked.
struct Params {
    tokens: u32,
    experts: u32,
    stride: u32,
    chosen: u32,
    normalised: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;           // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;        // [tokens, chosen]
@group(0) @binding(3) var<storage, read_write> gates: array<f32>;      // [tokens, chosen]

var<workgroup> winners: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = linear_workgroup(group, groups);
    // Workgroups beyond the last token go along through the barriers, with nothing to do.
    let experts = select(0u, params.experts, token < params.tokens);
    let chosen = select(0u, params.chosen, token < params.tokens);
    let start = token * params.stride;
    var most = -3.4e38;
    for (var e = index; e < experts; e += 64u) {
        most = max(most, logits[start + e]);
    }
    most = reduce_max(most, index);
    var sum = 0.0;
    for (var e = index; e < experts; e += 64u) {
        sum += exp(logits[start + e] - most);
    }
    sum = reduce_sum(sum, index);
    var before = most;
    var last = 0u;
    var total = 0.0;
    for (var j = 0u; j < chosen; j++) {
        var value = -3.4e38;
        var winner = params.experts;
        for (var e = index; e < experts; e += 64u) {
            let logit = logits[start + e];
            let left = j == 0u || logit < before || (logit == before && e > last);
            if left && logit > value {
                value = logit;
                winner = e;
            }
        }
        let best = reduce_max(value, index);
        workgroupBarrier();
        winners[index] = select(params.experts, winner, value == best);
        workgroupBarrier();
        winner = params.experts;
        for (var i = 0u; i < 64u; i++) {
            winner = min(winner, winners[i]);
        }
        let p = exp(best - most) / sum;
        if index == 0u {
            ids[token * chosen + j] = winner;
            gates[token * chosen + j] = p;
        }
        total += p;
        before = best;
        last = winner;
    }
    if index == 0u && params.normalised != 0u {
        for (var j = 0u; j < chosen; j++) {
            gates[token * chosen + j] /= total;
        }
    }
}
