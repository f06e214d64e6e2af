//! The picture: latency by percentile, and rate and p99 over time, as SVG: `--plot`.
//!
//! Owns the drawing, written by hand so that it stays the same for the same figures. Never computes a figure.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use crate::measure::Point;
use crate::run::Outcome;

/// Draws all targets into one picture.
pub(crate) fn draw(outcomes: &[Outcome], open_loop: bool) -> String {
    let height = MARGIN_TOP + LEGEND_LINE * outcomes.len() as f64 + 3.0 * (PANEL_HEIGHT + PANEL_GAP);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">"
    );
    let _ = writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>");
    legend(&mut svg, outcomes);
    let top = MARGIN_TOP + LEGEND_LINE * outcomes.len() as f64;
    let panels = [percentiles(outcomes, open_loop), rates(outcomes), p99s(outcomes)];
    for (number, panel) in panels.iter().enumerate() {
        panel.draw(&mut svg, top + number as f64 * (PANEL_HEIGHT + PANEL_GAP));
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, outcomes: &[Outcome]) {
    for (number, outcome) in outcomes.iter().enumerate() {
        let y = 22.0 + LEGEND_LINE * number as f64;
        let figures = &outcome.figures;
        let text = escape(&format!(
            "{}: {:.0} messages/s, {} acknowledged, {} errors",
            outcome.target,
            figures.rate(),
            figures.messages,
            figures.errors.total()
        ));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"3\"/><text x=\"{}\" y=\"{}\">{text}</text>",
            LEFT + 24.0,
            colour(number),
            LEFT + 32.0,
            y + 4.5
        );
    }
}

/// Latency by percentile; the axis is stretched towards 100%, as the interesting part is there.
fn percentiles(outcomes: &[Outcome], open_loop: bool) -> Panel {
    let largest = outcomes.iter().map(|outcome| outcome.figures.transaction.0.len()).max().unwrap_or(0);
    let nines = (largest.max(10) as f64).log10().ceil().clamp(1.0, 6.0);
    let names = ["0%", "90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%"];
    let mut ticks: Vec<(f64, String)> =
        names.iter().enumerate().map(|(at, name)| (at as f64, (*name).to_owned())).collect();
    ticks.push((2.0_f64.log10(), "50%".to_owned()));
    ticks.retain(|(at, _)| *at <= nines);
    let curve = |outcome: &Outcome| {
        let latency = &outcome.figures.transaction;
        // Beyond this there is less than one message.
        let end = (latency.0.len().max(1) as f64).log10().min(nines);
        let steps = (0..=CURVE_STEPS).map(|step| end * f64::from(step) / f64::from(CURVE_STEPS));
        steps
            .filter_map(|x| Some((x, latency.quantile(1.0 - 10_f64.powf(-x))?.as_secs_f64() * 1e3)))
            .collect()
    };
    let from = if open_loop { "from the scheduled time" } else { "from MAIL" };
    let lines: Vec<Line> = outcomes.iter().map(curve).collect();
    Panel {
        title: format!("Latency of whole transactions, {from} to the last reply"),
        x: Axis { name: "percentile".into(), range: (0.0, nines), ticks },
        y: Axis::logarithmic("milliseconds", &lines),
        y_is_logarithmic: true,
        lines,
    }
}

fn rates(outcomes: &[Outcome]) -> Panel {
    let rate = |point: &Point| Some(point.messages as f64 / point.seconds.max(1e-3));
    let lines: Vec<Line> = outcomes.iter().map(|outcome| over_time(&outcome.points, rate, mean)).collect();
    Panel {
        title: "Rate over time".into(),
        x: Axis::time(&lines),
        y: Axis::linear("messages/s", largest(&lines, |(_, y)| y)),
        y_is_logarithmic: false,
        lines,
    }
}

fn p99s(outcomes: &[Outcome]) -> Panel {
    let p99 = |point: &Point| point.p99.map(|p99| p99.as_secs_f64() * 1e3);
    let lines: Vec<Line> = outcomes
        .iter()
        .map(|outcome| over_time(&outcome.points, p99, |values| values.iter().copied().fold(0.0, f64::max)))
        .collect();
    Panel {
        title: "99th percentile of the latency over time".into(),
        x: Axis::time(&lines),
        y: Axis::logarithmic("milliseconds", &lines),
        y_is_logarithmic: true,
        lines,
    }
}

/// The points in as many groups as can be told apart.
fn over_time(
    points: &[Point],
    value: impl Fn(&Point) -> Option<f64>,
    of_group: impl Fn(&[f64]) -> f64,
) -> Line {
    // The last interval is cut short where the round ends, so its rate says little.
    let whole: Vec<&Point> = points.iter().filter(|point| point.seconds >= SHORTEST_SECONDS).collect();
    let group = whole.len().div_ceil(POINTS_MAX).max(1);
    let mut line = Vec::new();
    for points in whole.chunks(group) {
        let values: Vec<f64> = points.iter().filter_map(|point| value(point)).collect();
        if !values.is_empty() {
            line.push((points[0].at + points[0].seconds / 2.0, of_group(&values)));
        }
    }
    line
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

type Line = Vec<(f64, f64)>;

struct Axis {
    name: String,
    range: (f64, f64),
    ticks: Vec<(f64, String)>,
}

impl Axis {
    fn linear(name: &str, largest: f64) -> Self {
        let step = round_up(largest.max(1e-3) / 5.0);
        let count = (largest / step).ceil().max(1.0);
        let ticks =
            (0..=5).map(|number| f64::from(number) * step).take_while(|at| *at <= count * step + step / 2.0);
        Self {
            name: name.into(),
            range: (0.0, count * step),
            ticks: ticks.map(|at| (at, number(at))).collect(),
        }
    }

    fn time(lines: &[Line]) -> Self {
        let mut axis = Self::linear("seconds", largest(lines, |(x, _)| x));
        axis.range.1 = largest(lines, |(x, _)| x).max(1e-3) * 1.01;
        axis.ticks.retain(|(at, _)| *at <= axis.range.1);
        axis
    }

    /// Powers of ten around all values; positions are logarithms.
    fn logarithmic(name: &str, lines: &[Line]) -> Self {
        let most = largest(lines, |(_, y)| y).max(1e-3);
        let least = lines.iter().flatten().map(|(_, y)| *y).fold(most, f64::min).max(1e-3);
        let (low, mut high) = (least.log10().floor(), most.log10().ceil());
        if high <= low {
            high = low + 1.0;
        }
        let mut ticks = Vec::new();
        let mut decade = low;
        while decade <= high {
            for factor in [1.0_f64, 2.0, 5.0] {
                let at = decade + factor.log10();
                // One or two decades have room for more lines than powers of ten.
                if at <= high + 1e-9 && (factor < 1.5 || high - low < 3.5) {
                    ticks.push((at, number(factor * 10_f64.powf(decade))));
                }
            }
            decade += 1.0;
        }
        Self { name: name.into(), range: (low, high), ticks }
    }

    fn share(&self, at: f64) -> f64 {
        (at - self.range.0) / (self.range.1 - self.range.0)
    }
}

struct Panel {
    title: String,
    x: Axis,
    y: Axis,
    y_is_logarithmic: bool,
    lines: Vec<Line>,
}

impl Panel {
    fn draw(&self, svg: &mut String, top: f64) {
        let bottom = top + PANEL_HEIGHT - AXIS_HEIGHT;
        let upper = top + TITLE_HEIGHT;
        let x = |at: f64| LEFT + self.x.share(at) * (WIDTH - LEFT - RIGHT);
        let y = |at: f64| bottom - self.y.share(at) * (bottom - upper);
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
            top + 12.0,
            escape(&self.title)
        );
        for (at, name) in &self.y.ticks {
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{0:.1}\" x2=\"{1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\" fill=\"#333\">{name}</text>",
                y(*at),
                WIDTH - RIGHT,
                LEFT - 8.0,
                y(*at) + 4.5
            );
        }
        for (at, name) in &self.x.ticks {
            let _ = writeln!(
                svg,
                "<line x1=\"{0:.1}\" y1=\"{upper}\" x2=\"{0:.1}\" y2=\"{bottom}\" stroke=\"#eee\"/><text x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"middle\" fill=\"#333\">{name}</text>",
                x(*at),
                bottom + 18.0
            );
        }
        let middle = (upper + bottom) / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text x=\"16\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle:.1})\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            bottom + 36.0,
            escape(&self.x.name),
            escape(&self.y.name)
        );
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {upper}V{bottom}H{}\" fill=\"none\" stroke=\"#333\"/>",
            WIDTH - RIGHT
        );
        for (number, line) in self.lines.iter().enumerate() {
            let height = |value: f64| if self.y_is_logarithmic { value.max(1e-3).log10() } else { value };
            let points: Vec<String> =
                line.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(height(*value)))).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"/>",
                points.join(" "),
                colour(number)
            );
        }
    }
}

fn largest(lines: &[Line], part: impl Fn((f64, f64)) -> f64) -> f64 {
    lines.iter().flatten().map(|point| part(*point)).fold(0.0, f64::max)
}

/// The next of 1, 2, 5, 10, 20, 50 and so on.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * decade)
        .find(|step| *step >= value * 0.999_999)
        .unwrap_or(value)
}

/// Without digits that say nothing.
fn number(value: f64) -> String {
    let text = if value >= 1.0 || value == 0.0 { format!("{value:.1}") } else { format!("{value:.4}") };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Colours that stay apart for nearly all eyes (Okabe and Ito), dark enough for white.
fn colour(number: usize) -> &'static str {
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"][number % 7]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 40.0;
const MARGIN_TOP: f64 = 24.0;
const LEGEND_LINE: f64 = 22.0;
const PANEL_HEIGHT: f64 = 300.0;
const PANEL_GAP: f64 = 20.0;
const TITLE_HEIGHT: f64 = 26.0;
const AXIS_HEIGHT: f64 = 44.0;
const CURVE_STEPS: u32 = 300;
const POINTS_MAX: usize = 400;
const SHORTEST_SECONDS: f64 = 0.15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!([0.7, 12.0, 50.0, 20_001.0].map(round_up), [1.0, 20.0, 50.0, 50_000.0]);
        let axis = Axis::linear("messages/s", 61_000.0);
        assert!(axis.range.1 >= 61_000.0 && axis.ticks.len() >= 4, "{:?}", axis.ticks);
        assert!(axis.ticks.iter().all(|(at, _)| *at <= axis.range.1), "{:?}", axis.ticks);
        let axis = Axis::logarithmic("ms", &[vec![(0.0, 0.3), (1.0, 42.0)]]);
        assert_eq!(axis.range, (-1.0, 2.0));
        assert_eq!(axis.ticks.first().unwrap().1, "0.1");
        assert_eq!(axis.ticks.last().unwrap().1, "100");
    }

    #[test]
    fn many_points_become_few_and_short_intervals_are_left_out() {
        let point = |number: u32| Point {
            at: f64::from(number) * 0.2,
            seconds: if number == 9999 { 0.01 } else { 0.2 },
            messages: 100,
            errors: 0,
            p99: None,
        };
        let points: Vec<Point> = (0..10_000).map(point).collect();
        let line = over_time(&points, |point| Some(point.messages as f64), mean);
        assert!(line.len() <= POINTS_MAX && line.iter().all(|(_, rate)| *rate == 100.0));
        assert!(over_time(&points, |point| point.p99.map(|p99| p99.as_secs_f64()), mean).is_empty());
    }

    #[test]
    fn names_are_escaped_and_numbers_are_short() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
        assert_eq!([0.0, 0.05, 1.0, 2.5, 20_000.0].map(number), ["0", "0.05", "1", "2.5", "20000"]);
    }
}
