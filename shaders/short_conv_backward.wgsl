// short_conv_backward: the gradient of what short_conv read, of whole sequences, in two steps.
//   STEP 0: to[t, c] = to[t, c] * silu'(sum_j weight[taps - 1 - j, c] * given[t - j, c])   for j < min(taps, before)
//   STEP 1: to[t, c] = sum_j weight[taps - 1 - j, c] * given[t + j, c]                     for j < min(taps, after)
//   given     [tokens, given_stride] f32: what was read, then what the first step has made; channels come first
//   weight    [taps, w_stride]      f32
//   places    [tokens]              (tokens of the sequence up to this one, and from it on, itself included)
//   to        [tokens, to_stride]   f32: the gradient of the result, in place, then that of what was read
//   dispatch  (parts of a row, tokens folded into (y, z)); 256 channels a workgroup
struct Params {
    tokens: u32,
    channels: u32,
    taps: u32,
    given_stride: u32,
    w_stride: u32,
    to_stride: u32,
    unused0: u32,
    unused1: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> given: array<f32>;            // [tokens, given_stride]
@group(0) @binding(2) var<storage, read> weight: array<f32>;           // [taps, w_stride]
@group(0) @binding(3) var<storage, read> places: array<vec2<u32>>;     // [tokens]
@group(0) @binding(4) var<storage, read_write> to: array<f32>;         // [tokens, to_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = folded_row(group, groups);
    if token >= params.tokens {
        return;
    }
    let place = places[token];
    let count = min(select(place.x, place.y, STEP == 1u), params.taps);
    let end = min((group.x + 1u) * 256u, params.channels);
    for (var c = group.x * 256u + index; c < end; c += 64u) {
        var sum = 0.0;
        for (var j = 0u; j < count; j += 1u) {
            let other = select(token - j, token + j, STEP == 1u);
            sum += weight[(params.taps - 1u - j) * params.w_stride + c] * given[other * params.given_stride + c];
        }
        let at = token * params.to_stride + c;
        if STEP == 0u {
            let share = 1.0 / (1.0 + exp(-sum));
            // What is missing from 1 is the sigmoid of -sum: a difference would leave nothing of it.
            to[at] *= share + sum * share / (1.0 + exp(sum));
        } else {
            to[at] = sum;
        }
    }
}
