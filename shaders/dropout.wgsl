// dropout: what a layer reads in training, with some of its values missing and the others as much larger.
//   y[t, i] = (y[t, i] if accumulate) + (x[t, i] * factor if hash(seed, first + t, i) >= threshold else 0)
//   x, y      [tokens, width]  f32 of the same stride
//   dispatch  64 groups of four values a workgroup, folded into (x, y)
// threshold is the rate times 2^32 and factor a scale over 1 - rate. What is missing depends on the seed and the place
// alone: the backward pass asks for the same again. The hash is PCG-RXS-M-XS (Jarzynski and Olano 2020), twice.
struct Params {
    groups: u32,
    stride4: u32,
    first: u32,
    seed: u32,
    threshold: u32,
    factor: f32,
    accumulate: u32,
    unused: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;    // [tokens, stride]

fn pcg(value: u32) -> u32 {
    let state = value * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let at = 64u * linear_workgroup(group, groups) + index;
    if at >= params.groups {
        return;
    }
    let row = pcg(params.seed ^ pcg(params.first + at / params.stride4));
    var kept = vec4(0.0);
    for (var lane = 0u; lane < 4u; lane++) {
        if pcg(row + 4u * (at % params.stride4) + lane) >= params.threshold {
            kept[lane] = params.factor;
        }
    }
    let value = kept * x[at];
    if params.accumulate != 0u {
        y[at] += value;
    } else {
        y[at] = value;
    }
}
