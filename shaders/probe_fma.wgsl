// probe_fma: multiply-adds in registers and nothing else: the most that an adapter can do.
//   every chain: z <- z * factor + summand, steps times;  y[t] = sum of the twelve chains of thread t, which begin at
//   t % 16, t % 16 + 1, ...
//   y         [threads]  f32
//   dispatch  (threads / 64, 1, 1)
// Twelve chains that do not depend on one another hide the latency of each. Factor and summand come at run time, so no
// compiler can fold the loop; a factor and a summand of 1 make the result exact, and tell how many steps were really
// taken.
struct Params {
    threads: u32,
    steps: u32,
    factor: f32,
    summand: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;          // [threads]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    let start = vec4(f32(thread.x % 16u)) + vec4(0.0, 1.0, 2.0, 3.0);
    let factor = vec4(params.factor);
    let summand = vec4(params.summand);
    var a = start;
    var b = start + vec4(4.0);
    var c = start + vec4(8.0);
    for (var step = 0u; step < params.steps; step += 32u) {
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
        a = fma(a, factor, summand); b = fma(b, factor, summand); c = fma(c, factor, summand);
    }
    let sum = a + b + c;
    if thread.x < params.threads {
        y[thread.x] = (sum.x + sum.y) + (sum.z + sum.w);
    }
}
