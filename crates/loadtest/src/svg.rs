//! Pictures of a report, as SVG text: bars and percentile curves. Readable on light and dark
//! pages, since colours are picked by the reader's preference.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const STYLE: &str = "<style>text{font:13px system-ui,sans-serif;fill:#333}.t{font-weight:600;font-size:15px}\
    .g{stroke:#8884;stroke-width:1}.c0{fill:#0a7f5a}.c1{fill:#9aa3ad}.c2{fill:#c98a2b}.c3{fill:#6b6fd0}\
    .l0{stroke:#0a7f5a}.l1{stroke:#9aa3ad}.l2{stroke:#c98a2b}.l3{stroke:#6b6fd0}\
    polyline{fill:none;stroke-width:2.5}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}}</style>";

/// One bar: whose, how much, and the text at its end.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Written before it.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// Written behind it.
    pub text: String,
    /// Which colour, counted from 0.
    pub colour: usize,
}

/// Bars below each other, with a line at `goal` if there is one.
pub fn bars(title: &str, bars: &[Bar], goal: Option<f64>) -> String {
    let height = 52.0 + 26.0 * bars.len() as f64;
    let most = bars
        .iter()
        .map(|bar| bar.value)
        .chain(goal)
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - 320.0) / most;
    let mut out = head(title, height);
    for (at, bar) in bars.iter().enumerate() {
        let y = 38.0 + 26.0 * at as f64;
        let width = (bar.value * scale).max(1.0);
        let _ = write!(
            out,
            "<text x=\"190\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect class=\"c{}\" x=\"200\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"18\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            y + 14.0,
            escape(&bar.label),
            bar.colour % 4,
            208.0 + width,
            y + 14.0,
            escape(&bar.text)
        );
    }
    if let Some(goal) = goal {
        let x = 200.0 + goal * scale;
        let _ = write!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"32\" y2=\"{:.0}\" stroke=\"#c33\" stroke-dasharray=\"4 3\"/>",
            height - 12.0
        );
    }
    out + "</svg>\n"
}

/// Where each share of all stays within: percentiles to the right, milliseconds upwards (both
/// logarithmic), one curve per name.
pub fn percentiles(title: &str, curves: &[(String, Vec<(f64, f64)>)], goal_ms: Option<f64>) -> String {
    const LEFT: f64 = 70.0;
    const TOP: f64 = 40.0;
    const W: f64 = 500.0;
    const H: f64 = 240.0;
    let all = || {
        curves
            .iter()
            .flat_map(|(_, points)| points.iter().map(|point| point.1))
            .chain(goal_ms)
    };
    let low = all().fold(f64::MAX, f64::min).max(0.01).log10().floor();
    let high = all().fold(0.1, f64::max).log10().ceil().max(low + 1.0);
    // One nine more is one step to the right.
    let x = |quantile: f64| LEFT + W * (-(1.0 - quantile).max(1e-5).log10()).min(5.0) / 5.0;
    let y = |ms: f64| TOP + H * (1.0 - (ms.max(0.001).log10() - low) / (high - low)).clamp(0.0, 1.0);
    let mut out = head(title, TOP + H + 40.0);
    for (quantile, name) in [
        (0.0, "0"),
        (0.5, "50"),
        (0.9, "90"),
        (0.99, "99"),
        (0.999, "99.9"),
        (0.9999, "99.99"),
    ] {
        let at = x(quantile);
        let _ = write!(
            out,
            "<line class=\"g\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            TOP + H,
            TOP + H + 18.0
        );
    }
    let mut power = low;
    while power <= high {
        let at = y(10_f64.powf(power));
        let _ = write!(
            out,
            "<line class=\"g\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} ms</text>",
            LEFT + W,
            LEFT - 6.0,
            at + 4.0,
            10_f64.powf(power)
        );
        power += 1.0;
    }
    if let Some(goal) = goal_ms {
        let at = y(goal);
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#c33\" stroke-dasharray=\"4 3\"/>",
            LEFT + W
        );
    }
    for (index, (name, points)) in curves.iter().enumerate() {
        let line: String = points
            .iter()
            .map(|(quantile, ms)| format!("{:.1},{:.1} ", x(*quantile), y(*ms)))
            .collect();
        let _ = write!(
            out,
            "<polyline class=\"l{}\" points=\"{line}\"/><rect class=\"c{}\" x=\"{:.0}\" y=\"{:.0}\" width=\"12\" height=\"12\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            index % 4,
            index % 4,
            LEFT + W + 12.0,
            TOP + 20.0 * index as f64,
            LEFT + W + 30.0,
            TOP + 11.0 + 20.0 * index as f64,
            escape(name)
        );
    }
    out + "</svg>\n"
}

fn head(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{0}\">{STYLE}<text class=\"t\" x=\"10\" y=\"20\">{0}</text>",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
