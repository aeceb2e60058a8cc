// adamw: one step of Adam with decoupled weight decay.
//   m[i] = beta1 * m[i] + (1 - beta1) * scale * g[i]
//   v[i] = beta2 * v[i] + (1 - beta2) * (scale * g[i])^2
//   w[i] = (1 - rate * decay) * w[i] - rate * m[i] * unbias1 / (sqrt(v[i] * unbias2) + eps)
//   g, w, m, v  [rows, width]  f32 of the same stride; w, m and v in place
//   dispatch    64 groups of four values a workgroup, folded into (x, y)
// With unbias1 = 1 / (1 - beta1^k) and unbias2 = 1 / (1 - beta2^k) of step k = 1, 2, ... Padding is zero and stays
// zero.
struct Params {
    groups: u32,
    scale: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    decay: f32,
    unbias1: f32,
    unbias2: f32,
    eps: f32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4<f32>>;          // [rows, stride]
@group(0) @binding(2) var<storage, read_write> w: array<vec4<f32>>;    // [rows, stride]
@group(0) @binding(3) var<storage, read_write> m: array<vec4<f32>>;    // [rows, stride]
@group(0) @binding(4) var<storage, read_write> v: array<vec4<f32>>;    // [rows, stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let at = 64u * linear_workgroup(group, groups) + index;
    if at >= params.groups {
        return;
    }
    let gradient = params.scale * g[at];
    let first = params.beta1 * m[at] + (1.0 - params.beta1) * gradient;
    let second = params.beta2 * v[at] + (1.0 - params.beta2) * gradient * gradient;
    m[at] = first;
    v[at] = second;
    let step = params.rate * params.unbias1 * first / (sqrt(second * params.unbias2) + params.eps);
    w[at] = (1.0 - params.rate * params.decay) * w[at] - step;
}
