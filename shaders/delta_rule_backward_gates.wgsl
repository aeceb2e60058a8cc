// delta_rule_backward_gates: the gradients of the logarithms of the gates of delta_rule, in two steps.
//   STEP 0: dgates[t, h] = d_t . out_t - dv_t . v_t;   dgates[t, heads + h] = dv_t . u_t
//   STEP 1: dgates[t, h] = sum of dgates[s, h] over the tokens s of the sequence from t on, in place
//   qkv       [tokens, q_stride] f32, as in delta_rule.wgsl
//   work      [tokens, w_stride] f32, as delta_rule_backward_columns.wgsl leaves it
//   out       [tokens, o_stride] f32, delta_rule's result
//   dgates    [tokens, g_stride] f32: of a of every head, then of b
//   dispatch  STEP 0 one workgroup a (token, head), folded into (x, y); STEP 1 one thread a head, 64 a workgroup
// With G the gradient of S, a_t da_t is <G_t-1, S_t-1>, since G and S before t meet in a_t S alone. From one token to
// the one before, that changes by what the token takes in, v, and gives, out: no state is needed. STEP 1 takes `tokens`
// tokens from `first` on, `last` if the sequence ends with them.
struct Params {
    tokens: u32,
    first: u32,
    last: u32,
    heads: u32,
    value_dim: u32,
    v_column: u32,
    q_stride: u32,
    w_stride: u32,
    o_stride: u32,
    g_stride: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;              // [tokens, q_stride]
@group(0) @binding(2) var<storage, read> work: array<f32>;             // [tokens, w_stride]
@group(0) @binding(3) var<storage, read> out: array<f32>;              // [tokens, o_stride]
@group(0) @binding(4) var<storage, read_write> dgates: array<f32>;     // [tokens, g_stride]

fn terms(unit: u32, index: u32) {
    let token = unit / params.heads;
    let head = unit % params.heads;
    let width = params.heads * params.value_dim;
    let first = head * params.value_dim;
    let u = token * params.w_stride + 2u * params.heads + first;
    var kept = 0.0;
    var corrected = 0.0;
    for (var j = index; j < params.value_dim; j += 64u) {
        let dv = work[u + width + j];
        kept += work[u + 2u * width + j] * out[token * params.o_stride + first + j];
        kept -= dv * qkv[token * params.q_stride + params.v_column + first + j];
        corrected += dv * work[u + j];
    }
    kept = reduce_sum(kept, index);
    corrected = reduce_sum(corrected, index);
    if index == 0u {
        dgates[token * params.g_stride + head] = kept;
        dgates[token * params.g_stride + params.heads + head] = corrected;
    }
}

fn totals(head: u32) {
    var sum = 0.0;
    if params.last == 0u { sum = dgates[(params.first + params.tokens) * params.g_stride + head]; }
    for (var number = params.tokens; number > 0u; number -= 1u) {
        let at = (params.first + number - 1u) * params.g_stride + head;
        sum += dgates[at];
        dgates[at] = sum;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let unit = linear_workgroup(group, groups);
    if STEP == 0u {
        if unit < params.tokens * params.heads { terms(unit, index); }
    } else if unit * 64u + index < params.heads {
        totals(unit * 64u + index);
    }
}
