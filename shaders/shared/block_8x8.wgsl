// A thread's block of results: 8 rows and 8 columns, in two halves of 4 each, so that neighbouring threads read
// neighbouring vec4.
// Named accumulators, not an array: shader compilers keep names in registers, arrays only if they unroll every loop.
const HALVES: u32 = 2u;

var<private> c00: vec4<f32>; var<private> c01: vec4<f32>; var<private> c10: vec4<f32>; var<private> c11: vec4<f32>;
var<private> c20: vec4<f32>; var<private> c21: vec4<f32>; var<private> c30: vec4<f32>; var<private> c31: vec4<f32>;
var<private> c40: vec4<f32>; var<private> c41: vec4<f32>; var<private> c50: vec4<f32>; var<private> c51: vec4<f32>;
var<private> c60: vec4<f32>; var<private> c61: vec4<f32>; var<private> c70: vec4<f32>; var<private> c71: vec4<f32>;

var<private> t00: vec4<f32>; var<private> t01: vec4<f32>; var<private> t10: vec4<f32>; var<private> t11: vec4<f32>;
var<private> t20: vec4<f32>; var<private> t21: vec4<f32>; var<private> t30: vec4<f32>; var<private> t31: vec4<f32>;
var<private> t40: vec4<f32>; var<private> t41: vec4<f32>; var<private> t50: vec4<f32>; var<private> t51: vec4<f32>;
var<private> t60: vec4<f32>; var<private> t61: vec4<f32>; var<private> t70: vec4<f32>; var<private> t71: vec4<f32>;

// One step of the sum: 8 rows a, 8 columns b.
fn multiply_step(a0: vec4<f32>, a1: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>) {
    c00 = fma(a0.xxxx, b0, c00); c01 = fma(a0.xxxx, b1, c01);
    c10 = fma(a0.yyyy, b0, c10); c11 = fma(a0.yyyy, b1, c11);
    c20 = fma(a0.zzzz, b0, c20); c21 = fma(a0.zzzz, b1, c21);
    c30 = fma(a0.wwww, b0, c30); c31 = fma(a0.wwww, b1, c31);
    c40 = fma(a1.xxxx, b0, c40); c41 = fma(a1.xxxx, b1, c41);
    c50 = fma(a1.yyyy, b0, c50); c51 = fma(a1.yyyy, b1, c51);
    c60 = fma(a1.zzzz, b0, c60); c61 = fma(a1.zzzz, b1, c61);
    c70 = fma(a1.wwww, b0, c70); c71 = fma(a1.wwww, b1, c71);
}

// Ends a run of steps: their sum goes to the total, and the next run begins at zero.
fn fold_block() {
    t00 += c00; t01 += c01; t10 += c10; t11 += c11; t20 += c20; t21 += c21; t30 += c30; t31 += c31;
    t40 += c40; t41 += c41; t50 += c50; t51 += c51; t60 += c60; t61 += c61; t70 += c70; t71 += c71;
    c00 = vec4(0.0); c01 = vec4(0.0); c10 = vec4(0.0); c11 = vec4(0.0); c20 = vec4(0.0); c21 = vec4(0.0); c30 = vec4(0.0); c31 = vec4(0.0);
    c40 = vec4(0.0); c41 = vec4(0.0); c50 = vec4(0.0); c51 = vec4(0.0); c60 = vec4(0.0); c61 = vec4(0.0); c70 = vec4(0.0); c71 = vec4(0.0);
}

// Hands the totals to the store4 of the shader that includes this.
fn store_block(block: Block) {
    store4(block.row0, block.column0, t00); store4(block.row0, block.column1, t01);
    store4(block.row0 + 1u, block.column0, t10); store4(block.row0 + 1u, block.column1, t11);
    store4(block.row0 + 2u, block.column0, t20); store4(block.row0 + 2u, block.column1, t21);
    store4(block.row0 + 3u, block.column0, t30); store4(block.row0 + 3u, block.column1, t31);
    store4(block.row1, block.column0, t40); store4(block.row1, block.column1, t41);
    store4(block.row1 + 1u, block.column0, t50); store4(block.row1 + 1u, block.column1, t51);
    store4(block.row1 + 2u, block.column0, t60); store4(block.row1 + 2u, block.column1, t61);
    store4(block.row1 + 3u, block.column0, t70); store4(block.row1 + 3u, block.column1, t71);
}
