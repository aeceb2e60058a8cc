// Every thread reads what it needs by itself. On a CPU that poses as a GPU this is fastest: its caches do what
// workgroup memory does elsewhere, and where all threads of a group have the same rows (THREADS_Y = 1), the left matrix
// is read once for all of them.

// Adds the products of steps 0 .. 4*end4 to the block.
fn walk(thread: vec2<u32>, _index: u32, first_row: u32, first_column: u32, end4: u32) {
    let block = block_of(thread, first_row, first_column);
    for (var step4 = 0u; step4 < end4; step4 += 1u) {
        let a0 = left(block.row0, step4);
        let b0 = right(block.column0, step4);
        var a1 = mat4x4<f32>();
        var b1 = mat4x4<f32>();
        if HALVES == 2u {
            a1 = left(block.row1, step4);
            b1 = right(block.column1, step4);
        }
        multiply_step(a0[0], a1[0], b0[0], b1[0]);
        multiply_step(a0[1], a1[1], b0[1], b1[1]);
        multiply_step(a0[2], a1[2], b0[2], b1[2]);
        multiply_step(a0[3], a1[3], b0[3], b1[3]);
        after(step4);
    }
}
