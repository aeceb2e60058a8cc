// What every matrix product shares: a workgroup of THREADS_X × THREADS_Y threads has a tile of results, each thread a
// block of it (block_*.wgsl), and the sum over the inner dimension is walked by walk_direct.wgsl, or through workgroup
// memory (tile.wgsl) by walk_tiled.wgsl or walk_ahead.wgsl.
// The shader that includes these gives
//   left(row, step4) -> mat4x4      steps 4*step4 .. of the left matrix, a column of the result each: rows row .. row+3
//   right(column, step4) -> mat4x4  the same of the right matrix and columns
//   store4(row, column, values)     four results
//   after(step4)                    called when this group of four steps, or workgroup memory full of groups that
//   ends with it, has been added
// The left matrix must be zero beyond the last step. Beyond the last row or column anything will do, it is not stored.
// Every result is a chain of fma over ascending steps, or a sum of such chains, whatever the configuration: all agree
// to the last bit.
const ROWS4: u32 = HALVES * THREADS_Y;                                 // groups of four rows of a tile
const COLUMNS4: u32 = HALVES * THREADS_X;                              // groups of four columns of a tile

// First rows and columns of the two halves of a thread's block.
struct Block {
    row0: u32,
    row1: u32,
    column0: u32,
    column1: u32,
}

// The block of a thread in the tile whose first row and column are given.
fn block_of(thread: vec2<u32>, first_row: u32, first_column: u32) -> Block {
    let row = first_row + 4u * thread.y;
    let column = first_column + 4u * thread.x;
    return Block(row, row + 4u * THREADS_Y, column, column + 4u * THREADS_X);
}
