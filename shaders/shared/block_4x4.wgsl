// A thread's block of results: 4 rows and 4 columns; the second halves of block_8x8.wgsl are not there.
const HALVES: u32 = 1u;

var<private> c0: vec4<f32>; var<private> c1: vec4<f32>; var<private> c2: vec4<f32>; var<private> c3: vec4<f32>;
var<private> t0: vec4<f32>; var<private> t1: vec4<f32>; var<private> t2: vec4<f32>; var<private> t3: vec4<f32>;

// One step of the sum: 4 rows a, 4 columns b.
fn multiply_step(a: vec4<f32>, _a1: vec4<f32>, b: vec4<f32>, _b1: vec4<f32>) {
    c0 = fma(a.xxxx, b, c0);
    c1 = fma(a.yyyy, b, c1);
    c2 = fma(a.zzzz, b, c2);
    c3 = fma(a.wwww, b, c3);
}

// Ends a run of steps: their sum goes to the total, and the next run begins at zero.
fn fold_block() {
    t0 += c0; t1 += c1; t2 += c2; t3 += c3;
    c0 = vec4(0.0); c1 = vec4(0.0); c2 = vec4(0.0); c3 = vec4(0.0);
}

// Hands the totals to the store4 of the shader that includes this.
fn store_block(block: Block) {
    store4(block.row0, block.column0, t0);
    store4(block.row0 + 1u, block.column0, t1);
    store4(block.row0 + 2u, block.column0, t2);
    store4(block.row0 + 3u, block.column0, t3);
}
