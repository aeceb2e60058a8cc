// activation_backward: the gradient of an activation's input from that of its output.
//   dx[t, i] = d[t, i] * f'(x[t, i]);  gated: dx[t, i] = d[t, i] * f'(x[t, i]) * x[t, width + i], dx[t, width + i] =
//   d[t, i] * f(x[t, i])
//   KIND and GATED as in activation.wgsl; relu's derivative at 0 is 0
//   x, dx     [tokens, x_stride] f32, gate first, then up
//   d         [tokens, width]    f32
//   dispatch  (parts of a row, tokens folded into (y, z)); PART elements a workgroup
struct Params {
    tokens: u32,
    width: u32,
    x_stride: u32,
    d_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [tokens, x_stride]
@group(0) @binding(2) var<storage, read> d: array<f32>;                // [tokens, d_stride]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;         // [tokens, x_stride]

// Of x * logistic(z) with dz / dx = slope. What is missing from 1 is the logistic function of -z: a difference would
// leave nothing of it.
fn of_logistic(x: f32, z: f32, slope: f32) -> f32 {
    let share = 1.0 / (1.0 + exp(-z));
    return share + x * share * slope / (1.0 + exp(z));
}

fn derivative(x: f32) -> f32 {
    switch KIND {
        case 0u: { return select(0.0, 1.0, x > 0.0); }
        case 1u: { return 0.5 * (1.0 + erf(x * 0.70710678118654752)) + x * exp(-0.5 * x * x) * 0.39894228040143268; }
        // Where the square of a large x would be infinite, the logistic function has long been 0 or 1.
        case 2u: {
            let z = clamp(x, -30.0, 30.0);
            return of_logistic(z, 1.5957691216057308 * (z + 0.044715 * z * z * z), 1.5957691216057308 * (1.0 + 0.134145 * z * z));
        }
        default: { return of_logistic(x, x, 1.0); }
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
        let gradient = d[token * params.d_stride + i];
        let value = x[start + i];
        if GATED == 1u {
            dx[start + i] = gradient * derivative(value) * x[start + params.width + i];
            dx[start + params.width + i] = gradient * apply(value);
        } else {
            dx[start + i] = gradient * derivative(value);
        }
    }
}
