// Linear indices over a grid that is folded into two dimensions, since one holds no more than 65535 workgroups.
fn linear_workgroup(workgroup: vec3<u32>, count: vec3<u32>) -> u32 {
    return workgroup.y * count.x + workgroup.x;
}

// The same for grids of parts of rows: x counts the parts, and the rows are folded into (y, z).
fn folded_row(workgroup: vec3<u32>, count: vec3<u32>) -> u32 {
    return workgroup.z * count.y + workgroup.y;
}
