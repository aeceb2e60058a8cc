//! What each axis costs to cut, as a drawing for the model card.

use std::fmt::Write;

use crate::compress::{Axis, Curve};

/// The file beside the card.
pub const NAME: &str = "curves.svg";

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 276.0;
const RIGHT: f64 = 440.0;
const TOP: f64 = 20.0;
/// Told apart by people who see no red or no green, too.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
const STEPS: usize = 48;

/// Draws the curves with the points they go through, and a mark at the depth that was cut.
pub fn draw(curves: &[Curve], cuts: &[(Axis, f64)]) -> String {
    let deepest = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0)).fold(0.05, f64::max);
    let largest = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1)).fold(1e-6, f64::max);
    let x = |depth: f64| LEFT + (RIGHT - LEFT) * depth / deepest;
    let y = |kl: f64| BOTTOM - (BOTTOM - TOP) * (kl / largest).min(1.05);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    for part in 0..=4 {
        let (depth, kl) = (deepest * f64::from(part) / 4.0, largest * f64::from(part) / 4.0);
        let (across, up) = (x(depth), y(kl));
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {up:.1}H{RIGHT}\" stroke=\"#ddd\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{kl:.2}</text>\n<text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0} \
             %</text>",
            LEFT - 6.0,
            up + 4.0,
            BOTTOM + 16.0,
            100.0 * depth
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\">share that leaves, and KL divergence in nats</text>",
        HEIGHT - 8.0
    );
    for (number, curve) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let end = curve.points.iter().map(|point| point.0).fold(0.0, f64::max);
        let line: Vec<String> = (0..=STEPS)
            .map(|step| end * step as f64 / STEPS as f64)
            .map(|depth| format!("{:.1},{:.1}", x(depth), y(curve.at(depth))))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (depth, kl) in &curve.points {
            let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>", x(*depth), y(*kl));
        }
        let cut = cuts.iter().find(|(axis, _)| *axis == curve.axis).map_or(0.0, |(_, depth)| *depth);
        if cut > 0.0 {
            let at = x(cut.min(deepest));
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {BOTTOM}V{:.1}\" stroke=\"{colour}\" stroke-dasharray=\"4 3\"/>",
                y(curve.at(cut))
            );
        }
        let row = TOP + 18.0 * number as f64 + 8.0;
        let _ = writeln!(
            svg,
            "<path d=\"M{:.1} {row:.1}h16\" stroke=\"{colour}\" stroke-width=\"2\"/>\n<text x=\"{:.1}\" y=\"{:.1}\">{} \
             {:.1} %</text>",
            RIGHT + 14.0,
            RIGHT + 36.0,
            row + 4.0,
            curve.axis,
            100.0 * cut
        );
    }
    svg.push_str("</svg>\n");
    svg
}
