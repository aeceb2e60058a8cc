// The rows and columns of a tile come through workgroup memory (tile.wgsl), STEPS steps at a time, so that each is read
// from memory once a workgroup.

// Adds the products of steps 0 .. 4*end4 to the block.
fn walk(thread: vec2<u32>, index: u32, first_row: u32, first_column: u32, end4: u32) {
    for (var first4 = 0u; first4 < end4; first4 += STEPS4) {
        for (var unit = index; unit < STEPS4 * ROWS4; unit += THREADS) {
            let step4 = unit % STEPS4;
            let row4 = unit / STEPS4;
            var steps = mat4x4<f32>();
            if first4 + step4 < end4 { steps = left(first_row + 4u * row4, first4 + step4); }
            put_left(row4, step4, steps);
        }
        for (var unit = index; unit < STEPS4 * COLUMNS4; unit += THREADS) {
            let step4 = unit % STEPS4;
            let column4 = unit / STEPS4;
            var steps = mat4x4<f32>();
            if first4 + step4 < end4 { steps = right(first_column + 4u * column4, first4 + step4); }
            put_right(column4, step4, steps);
        }
        workgroupBarrier();
        multiply_tile(thread);
        workgroupBarrier();
        after(first4 + STEPS4 - 1u);
    }
}
