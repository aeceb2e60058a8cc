// transpose: blocks of 64 tokens and 64 coordinates, each turned, so that a coordinate's values lie side by side.
//   y[(block * chunks + chunk) * 64 + i, t] = x[first_token + 64 * chunk + t, 64 * block + i], or zero beyond the last token or coordinate
//   x         [tokens, width]                      f32
//   y         [blocks * chunks * 64, 64]           f32; all chunks of a block of coordinates lie together
//   dispatch  (2 * blocks, 2 * chunks, 1)          a thread has 4 tokens of 4 coordinates
struct Params {
    tokens: u32,
    stride4: u32,
    first_token: u32,
    chunks: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;    // [blocks, chunks, 64, 64]

fn token4(token: u32, column4: u32) -> vec4<f32> {
    if token >= params.tokens || column4 >= params.stride4 {
        return vec4(0.0);
    }
    return x[token * params.stride4 + column4];
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    let token = params.first_token + 4u * thread.y;
    let values = transpose(mat4x4(
        token4(token, thread.x),
        token4(token + 1u, thread.x),
        token4(token + 2u, thread.x),
        token4(token + 3u, thread.x),
    ));
    let at = ((thread.x / 16u * params.chunks + thread.y / 16u) * 16u + thread.x % 16u) * 64u + thread.y % 16u;
    y[at] = values[0];
    y[at + 16u] = values[1];
    y[at + 32u] = values[2];
    y[at + 48u] = values[3];
}
