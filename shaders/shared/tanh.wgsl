// tanh without the driver's, which may overflow; a series where the quotient would lose digits.
fn tanh_of(x: f32) -> f32 {
    let square = x * x;
    let near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0)))));
    return select(1.0 - 2.0 / (exp(2.0 * x) + 1.0), near, abs(x) < 0.25);
}
