// As walk_tiled.wgsl, but what comes next is read from memory while what is there is multiplied, both matrices by
// different threads: where few workgroups share a processor, nothing else hides how long memory takes.
const STEPS4: u32 = STEPS / 4u;
const THREADS: u32 = THREADS_X * THREADS_Y;
// What a thread reads at a time: four steps of four rows or of four columns. There are at most two for each thread.
const UNITS_OF_LEFT: u32 = STEPS4 * ROWS4;
const UNITS: u32 = STEPS4 * (ROWS4 + COLUMNS4);
// Neighbouring threads store groups of steps: so many vec4 more between these, and they meet in different banks.
const PAD: u32 = 2u;

var<workgroup> tile_left: array<vec4<f32>, STEPS * ROWS4 + STEPS4 * PAD>;      // [step][row / 4]
var<workgroup> tile_right: array<vec4<f32>, STEPS * COLUMNS4 + STEPS4 * PAD>;  // [step][column / 4]

fn fetch(unit: u32, first_row: u32, first_column: u32, first4: u32, end4: u32) -> mat4x4<f32> {
    let of_left = unit < UNITS_OF_LEFT;
    let place = select(unit - UNITS_OF_LEFT, unit, of_left);
    let step4 = first4 + place % STEPS4;
    let line = 4u * (place / STEPS4);
    if unit >= UNITS || step4 >= end4 {
        return mat4x4<f32>();
    }
    if of_left {
        return left(first_row + line, step4);
    }
    return right(first_column + line, step4);
}

fn put(unit: u32, steps: mat4x4<f32>) {
    if unit < UNITS_OF_LEFT {
        let at = unit % STEPS4 * (4u * ROWS4 + PAD) + unit / STEPS4;
        tile_left[at] = steps[0];
        tile_left[at + ROWS4] = steps[1];
        tile_left[at + 2u * ROWS4] = steps[2];
        tile_left[at + 3u * ROWS4] = steps[3];
    } else if unit < UNITS {
        let place = unit - UNITS_OF_LEFT;
        let at = place % STEPS4 * (4u * COLUMNS4 + PAD) + place / STEPS4;
        tile_right[at] = steps[0];
        tile_right[at + COLUMNS4] = steps[1];
        tile_right[at + 2u * COLUMNS4] = steps[2];
        tile_right[at + 3u * COLUMNS4] = steps[3];
    }
}

// Adds the products of steps 0 .. 4*end4 to the block.
fn walk(thread: vec2<u32>, index: u32, first_row: u32, first_column: u32, end4: u32) {
    var next = fetch(index, first_row, first_column, 0u, end4);
    var other = mat4x4<f32>();
    if UNITS > THREADS { other = fetch(index + THREADS, first_row, first_column, 0u, end4); }
    for (var first4 = 0u; first4 < end4; first4 += STEPS4) {
        put(index, next);
        if UNITS > THREADS { put(index + THREADS, other); }
        workgroupBarrier();
        next = fetch(index, first_row, first_column, first4 + STEPS4, end4);
        if UNITS > THREADS { other = fetch(index + THREADS, first_row, first_column, first4 + STEPS4, end4); }
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
        workgroupBarrier();
        after(first4 + STEPS4 - 1u);
    }
}
