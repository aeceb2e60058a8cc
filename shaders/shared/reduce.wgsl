// Sum and maximum over each run of LANES threads of a workgroup of 64; every thread gets the result of its run.
var<workgroup> reduced: array<f32, 64>;

fn reduce_sum(value: f32, index: u32) -> f32 {
    workgroupBarrier();
    reduced[index] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if index % LANES < half {
            reduced[index] += reduced[index + half];
        }
        workgroupBarrier();
    }
    return reduced[index / LANES * LANES];
}

fn reduce_max(value: f32, index: u32) -> f32 {
    workgroupBarrier();
    reduced[index] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if index % LANES < half {
            reduced[index] = max(reduced[index], reduced[index + half]);
        }
        workgroupBarrier();
    }
    return reduced[index / LANES * LANES];
}
