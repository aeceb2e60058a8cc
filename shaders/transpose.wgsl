// transpose: tokens transposed, so that a coordinate's values lie side by side.
//   y[i, t] = x[t, 4 * first_column4 + i], or zero beyond the last token
//   x         [tokens, width]                      f32
//   y         [4 * rows4, 4 * columns4]            f32
//   dispatch  (ceil(rows4 / 8), ceil(columns4 / 8), 1)          a thread has 4 tokens of 4 coordinates
struct Params {
    tokens: u32,
    stride4: u32,
    first_column4: u32,
    rows4: u32,
    columns4: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;    // [rows, columns4]

fn token4(token: u32, column4: u32) -> vec4<f32> {
    if token >= params.tokens {
        return vec4(0.0);
    }
    return x[token * params.stride4 + params.first_column4 + column4];
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    if thread.x >= params.rows4 || thread.y >= params.columns4 {
        return;
    }
    let token = 4u * thread.y;
    let values = transpose(mat4x4(
        token4(token, thread.x),
        token4(token + 1u, thread.x),
        token4(token + 2u, thread.x),
        token4(token + 3u, thread.x),
    ));
    let at = 4u * thread.x * params.columns4 + thread.y;
    y[at] = values[0];
    y[at + params.columns4] = values[1];
    y[at + 2u * params.columns4] = values[2];
    y[at + 3u * params.columns4] = values[3];
}
