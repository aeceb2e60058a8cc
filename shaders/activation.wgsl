// activation: y[t, i] = f(x[t, i]), or f(x[t, i]) * x[t, width + i] for a gated MLP.
//   KIND 0 relu, 1 gelu (erf), 2 gelu (tanh), 3 silu;  GATED 0 or 1
//   x         [tokens, x_stride] f32, gate first, then up
//   y         [tokens, width]    f32
//   dispatch  (parts of a row, tokens folded into (y, z)); PART elements a workgroup
// No index is divided: that costs as much as all the rest.
struct Params {
    tokens: u32,
    width: u32,
    x_stride: u32,
    y_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, x_stride]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;          // [tokens, y_stride]

// Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * exp(-x * x);
    return sign(x) * (1.0 - tail);
}

fn apply(x: f32) -> f32 {
    switch KIND {
        case 0u: { return max(x, 0.0); }
        case 1u: { return 0.5 * x * (1.0 + erf(x * 0.70710678118654752)); }
        // tanh by way of the logistic function: drivers' own tanh overflows for large arguments.
        case 2u: { return x / (1.0 + exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))); }
        default: { return x / (1.0 + exp(-x)); }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = folded_row(group, groups);
    if token >= params.tokens {
        return;
    }
    let start = token * params.x_stride;
    let end = min((group.x + 1u) * PART, params.width);
    for (var i = group.x * PART + index; i < end; i += 64u) {
        var value = apply(x[start + i]);
        if GATED == 1u {
            value *= x[start + params.width + i];
        }
        y[token * params.y_stride + i] = value;
    }
}
