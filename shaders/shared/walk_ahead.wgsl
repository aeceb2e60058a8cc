// As walk_tiled.wgsl, but what comes next is read from memory while what is there is multiplied, both matrices by
// different threads: where few workgroups share a processor, nothing else hides how long memory takes.

// What a thread reads at a time: four steps of four rows or of four columns. There are at most two for each thread.
const UNITS_OF_LEFT: u32 = STEPS4 * ROWS4;
const UNITS: u32 = STEPS4 * (ROWS4 + COLUMNS4);

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
        put_left(unit / STEPS4, unit % STEPS4, steps);
    } else if unit < UNITS {
        let place = unit - UNITS_OF_LEFT;
        put_right(place / STEPS4, place % STEPS4, steps);
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
        multiply_tile(thread);
        workgroupBarrier();
        after(first4 + STEPS4 - 1u);
    }
}
