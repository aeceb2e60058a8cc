//! The loss of each step, as a drawing for the model card.

use std::fmt::Write;

/// The file beside the card.
pub const NAME: &str = "loss.svg";

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 544.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 256.0;
/// Points of a line: the mean of the steps between two of them.
const POINTS: usize = 200;

/// Draws the losses as a line and what was measured on other sequences as points; a mark where each layer begins, if
/// each was trained for `by_layer` steps.
pub fn draw(losses: &[f32], validation: &[(usize, f32)], by_layer: Option<usize>) -> String {
    let finite = || losses.iter().chain(validation.iter().map(|(_, loss)| loss)).map(|loss| f64::from(*loss));
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    let (low, high) = if low < high { (low, high) } else { (low.min(1.0) - 0.5, low.min(1.0) + 0.5) };
    let steps = losses.len().max(1);
    let x = |step: f64| LEFT + (RIGHT - LEFT) * step / steps as f64;
    let y = |loss: f64| BOTTOM - (BOTTOM - TOP) * (loss - low) / (high - low);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        let (loss, step) = (low + (high - low) * share, steps as f64 * share);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {:.1}H{RIGHT}\" stroke=\"#ddd\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{loss:.3}</text>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{step:.0}</text>",
            y(loss),
            LEFT - 6.0,
            y(loss) + 4.0,
            x(step),
            BOTTOM + 16.0
        );
    }
    for start in by_layer.into_iter().flat_map(|each| (each..steps).step_by(each.max(1))) {
        let at = x(start as f64);
        let _ = writeln!(svg, "<path d=\"M{at:.1} {BOTTOM}V{TOP}\" stroke=\"#bbb\" stroke-dasharray=\"4 3\"/>");
    }
    let together = steps.div_ceil(POINTS);
    let mean = |part: &[f32]| part.iter().map(|loss| f64::from(*loss)).sum::<f64>() / part.len() as f64;
    let line: Vec<String> = losses
        .chunks(together)
        .enumerate()
        .map(|(at, part)| format!("{:.1},{:.1}", x((at * together) as f64 + part.len() as f64 / 2.0), y(mean(part))))
        .collect();
    let _ =
        writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#0072b2\" stroke-width=\"2\"/>", line.join(" "));
    for (step, loss) in validation {
        let (across, up) = (x(*step as f64), y(f64::from(*loss)));
        let _ = writeln!(svg, "<circle cx=\"{across:.1}\" cy=\"{up:.1}\" r=\"4\" fill=\"#d55e00\"/>");
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\">loss by step: <tspan fill=\"#0072b2\">line, trained on</tspan>; <tspan \
         fill=\"#d55e00\">points, held out</tspan></text>",
        HEIGHT - 8.0
    );
    svg.push_str("</svg>\n");
    svg
}
