// The rows and columns of a tile come through workgroup memory, STEPS steps at a time, so that each is read from
// memory once a workgroup.
const STEPS4: u32 = STEPS / 4u;
const THREADS: u32 = THREADS_X * THREADS_Y;

var<workgroup> tile_left: array<vec4<f32>, STEPS * ROWS4>;             // [step][row / 4]
var<workgroup> tile_right: array<vec4<f32>, STEPS * COLUMNS4>;         // [step][column / 4]

// Adds the products of steps 0 .. 4*end4 to the block.
fn walk(thread: vec2<u32>, index: u32, first_row: u32, first_column: u32, end4: u32) {
    for (var first4 = 0u; first4 < end4; first4 += STEPS4) {
        for (var unit = index; unit < STEPS4 * ROWS4; unit += THREADS) {
            let step4 = unit % STEPS4;
            let row4 = unit / STEPS4;
            var steps = mat4x4<f32>();
            if first4 + step4 < end4 { steps = left(first_row + 4u * row4, first4 + step4); }
            let at = 4u * step4 * ROWS4 + row4;
            tile_left[at] = steps[0];
            tile_left[at + ROWS4] = steps[1];
            tile_left[at + 2u * ROWS4] = steps[2];
            tile_left[at + 3u * ROWS4] = steps[3];
        }
        for (var unit = index; unit < STEPS4 * COLUMNS4; unit += THREADS) {
            let step4 = unit % STEPS4;
            let column4 = unit / STEPS4;
            var steps = mat4x4<f32>();
            if first4 + step4 < end4 { steps = right(first_column + 4u * column4, first4 + step4); }
            let at = 4u * step4 * COLUMNS4 + column4;
            tile_right[at] = steps[0];
            tile_right[at + COLUMNS4] = steps[1];
            tile_right[at + 2u * COLUMNS4] = steps[2];
            tile_right[at + 3u * COLUMNS4] = steps[3];
        }
        workgroupBarrier();
        for (var step = 0u; step < STEPS; step += 1u) {
            let row4 = step * ROWS4 + thread.y;
            let column4 = step * COLUMNS4 + thread.x;
            var a1 = vec4<f32>();
            var b1 = vec4<f32>();
            if HALVES == 2u {
                a1 = tile_left[row4 + THREADS_Y];
                b1 = tile_right[column4 + THREADS_X];
            }
            multiply_step(tile_left[row4], a1, tile_right[column4], b1);
        }
        workgroupBarrier();
        after(first4 + STEPS4 - 1u);
    }
}
