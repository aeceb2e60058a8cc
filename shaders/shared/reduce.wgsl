// Sum and maximum over the 64 threads of a workgroup; every thread gets the result.
var<workgroup> reduced: array<f32, 64>;

fn reduce_sum(value: f32, index: u32) -> f32 {
    workgroupBarrier();
    reduced[index] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if index < half {
            reduced[index] += reduced[index + half];
        }
        workgroupBarrier();
    }
    return reduced[0];
}

fn reduce_max(value: f32, index: u32) -> f32 {
    workgroupBarrier();
    reduced[index] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if index < half {
            reduced[index] = max(reduced[index], reduced[index + half]);
        }
        workgroupBarrier();
    }
    return reduced[0];
}
