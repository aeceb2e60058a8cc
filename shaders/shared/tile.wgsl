// The heart of every matrix product: a 64x64 tile of results by 64 threads, 8x8 each, from two tiles of 16 steps in workgroup memory.
//   tile_a, tile_b   [16][64]  step-major, so that a thread reads its 8 rows and 8 columns as two vec4 each
// Sixteen named accumulators, not an array: shader compilers keep names in registers, arrays only if they unroll every loop.
const TILE: u32 = 64u;
const STEPS: u32 = 16u;
const TILE4: u32 = 16u;

var<workgroup> tile_a: array<vec4<f32>, 256>;
var<workgroup> tile_b: array<vec4<f32>, 256>;

var<private> c00: vec4<f32>; var<private> c01: vec4<f32>;
var<private> c10: vec4<f32>; var<private> c11: vec4<f32>;
var<private> c20: vec4<f32>; var<private> c21: vec4<f32>;
var<private> c30: vec4<f32>; var<private> c31: vec4<f32>;
var<private> c40: vec4<f32>; var<private> c41: vec4<f32>;
var<private> c50: vec4<f32>; var<private> c51: vec4<f32>;
var<private> c60: vec4<f32>; var<private> c61: vec4<f32>;
var<private> c70: vec4<f32>; var<private> c71: vec4<f32>;

fn clear_tile() {
    c00 = vec4(0.0); c01 = vec4(0.0); c10 = vec4(0.0); c11 = vec4(0.0);
    c20 = vec4(0.0); c21 = vec4(0.0); c30 = vec4(0.0); c31 = vec4(0.0);
    c40 = vec4(0.0); c41 = vec4(0.0); c50 = vec4(0.0); c51 = vec4(0.0);
    c60 = vec4(0.0); c61 = vec4(0.0); c70 = vec4(0.0); c71 = vec4(0.0);
}

// thread.x owns columns 8x .. 8x+7 of the tile, thread.y rows 8y .. 8y+7.
fn multiply_tile(thread: vec2<u32>) {
    for (var step = 0u; step < STEPS; step += 1u) {
        let a = step * TILE4 + 2u * thread.y;
        let b = step * TILE4 + 2u * thread.x;
        let a0 = tile_a[a];
        let a1 = tile_a[a + 1u];
        let b0 = tile_b[b];
        let b1 = tile_b[b + 1u];
        c00 += a0.x * b0; c01 += a0.x * b1;
        c10 += a0.y * b0; c11 += a0.y * b1;
        c20 += a0.z * b0; c21 += a0.z * b1;
        c30 += a0.w * b0; c31 += a0.w * b1;
        c40 += a1.x * b0; c41 += a1.x * b1;
        c50 += a1.y * b0; c51 += a1.y * b1;
        c60 += a1.z * b0; c61 += a1.z * b1;
        c70 += a1.w * b0; c71 += a1.w * b1;
    }
}

// Hands the tile, whose first row and column in the result are given, to the store_row of the shader that includes this.
fn store_tile(first_row: u32, first_column: u32, thread: vec2<u32>) {
    let row = first_row + 8u * thread.y;
    let column = first_column + 8u * thread.x;
    store_row(row, column, c00, c01);
    store_row(row + 1u, column, c10, c11);
    store_row(row + 2u, column, c20, c21);
    store_row(row + 3u, column, c30, c31);
    store_row(row + 4u, column, c40, c41);
    store_row(row + 5u, column, c50, c51);
    store_row(row + 6u, column, c60, c61);
    store_row(row + 7u, column, c70, c71);
}
