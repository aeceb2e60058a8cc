// Steps of a product in workgroup memory, for walk_tiled.wgsl and walk_ahead.wgsl.
const STEPS4: u32 = STEPS / 4u;
const THREADS: u32 = THREADS_X * THREADS_Y;
// Neighbouring threads store groups of four steps: with this many vec4 more between them they meet in different banks.
const PAD: u32 = 2u;

var<workgroup> tile_left: array<vec4<f32>, STEPS * ROWS4 + STEPS4 * PAD>;      // [step][row / 4]
var<workgroup> tile_right: array<vec4<f32>, STEPS * COLUMNS4 + STEPS4 * PAD>;  // [step][column / 4]

// Stores four steps of four rows.
fn put_left(row4: u32, step4: u32, steps: mat4x4<f32>) {
    let at = step4 * (4u * ROWS4 + PAD) + row4;
    tile_left[at] = steps[0];
    tile_left[at + ROWS4] = steps[1];
    tile_left[at + 2u * ROWS4] = steps[2];
    tile_left[at + 3u * ROWS4] = steps[3];
}

// Stores four steps of four columns.
fn put_right(column4: u32, step4: u32, steps: mat4x4<f32>) {
    let at = step4 * (4u * COLUMNS4 + PAD) + column4;
    tile_right[at] = steps[0];
    tile_right[at + COLUMNS4] = steps[1];
    tile_right[at + 2u * COLUMNS4] = steps[2];
    tile_right[at + 3u * COLUMNS4] = steps[3];
}

// Adds the products of all steps in workgroup memory to the block.
fn multiply_tile(thread: vec2<u32>) {
    for (var step = 0u; step < STEPS; step += 1u) {
        let row4 = step * ROWS4 + step / 4u * PAD + thread.y;
        let column4 = step * COLUMNS4 + step / 4u * PAD + thread.x;
        var a1 = vec4<f32>();
        var b1 = vec4<f32>();
        if HALVES == 2u {
            a1 = tile_left[row4 + THREADS_Y];
            b1 = tile_right[column4 + THREADS_X];
        }
        multiply_step(tile_left[row4], a1, tile_right[column4], b1);
    }
}
