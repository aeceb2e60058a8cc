// covariance: the upper triangle of Xᵀ·X, summed in short chunks.
//   c[i, j] = sum over chunks ( sum over the chunk's tokens x[t, i] * x[t, j] )     for i <= j; tiles below the diagonal are not touched
//   x         [tokens, width]  f32
//   c         [width, width]   f32, zero before
//   dispatch  (ceil(width / 64), ceil(rows / 64), 1) for the rows first_row .. first_row + rows of c
// A chunk is 64 tokens. One running f32 sum over thousands of tokens loses the small eigenvalues to the few tokens of huge norm.
struct Params {
    tokens: u32,
    width: u32,
    stride4: u32,
    first_row: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // [tokens, stride]
@group(0) @binding(2) var<storage, read_write> c: array<f32>;          // [rows, stride]

const CHUNK: u32 = 64u;

fn load(token: u32, column4: u32) -> vec4<f32> {
    if token < params.tokens && column4 < params.stride4 {
        return x[token * params.stride4 + column4];
    }
    return vec4(0.0);
}

fn add4(row: u32, column: u32, value: vec4<f32>) {
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.width {
            c[(row - params.first_row) * 4u * params.stride4 + column + i] += value[i];
        }
    }
}

fn store_row(row: u32, column: u32, left: vec4<f32>, right: vec4<f32>) {
    if row < params.width {
        add4(row, column, left);
        add4(row, column + 4u, right);
    }
}

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let tile_row = params.first_row / TILE + group.y;
    if tile_row > group.x {
        return;
    }
    for (var chunk = 0u; chunk < params.tokens; chunk += CHUNK) {
        clear_tile();
        for (var first = chunk; first < min(chunk + CHUNK, params.tokens); first += STEPS) {
            let column4 = index % TILE4;
            for (var i = 0u; i < 4u; i += 1u) {
                let step = 4u * (index / TILE4) + i;
                tile_a[step * TILE4 + column4] = load(first + step, TILE4 * tile_row + column4);
                tile_b[step * TILE4 + column4] = load(first + step, TILE4 * group.x + column4);
            }
            workgroupBarrier();
            multiply_tile(thread.xy);
            workgroupBarrier();
        }
        store_tile(TILE * tile_row, TILE * group.x, thread.xy);
    }
}
