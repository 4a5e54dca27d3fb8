//! The figures of all policies as a picture: for each a bar up to its 99th percentile, on a logarithmic scale, with a
//! mark at the median, once for each load.

use std::fmt::Write;

use super::Figures;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 60.0;
const BAR: f64 = 14.0;
const ROW: f64 = 46.0;
/// Milliseconds at both ends of the scale.
const LEAST: f64 = 10.0;
const MOST: f64 = 10_000.0;
const COLOURS: [&str; 2] = ["#5b8dc9", "#d9822b"];
const LOADS: [&str; 2] = ["60 % load", "85 % load"];

pub fn draw(rows: &[(&str, [Figures; 2])]) -> String {
    let height = TOP + ROW * rows.len() as f64 + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let bottom = height - 36.0;
    for decade in [10.0, 100.0, 1_000.0, 10_000.0] {
        let x = position(decade);
        line(&mut svg, [x, TOP - 8.0, x, bottom], "#dddddd", 1.0);
        let name = if decade < 1_000.0 {
            format!("{decade} ms")
        } else {
            format!("{} s", decade / 1e3)
        };
        text(&mut svg, [x, bottom + 16.0], "middle", &name);
    }
    for (number, (name, colour)) in LOADS.iter().zip(COLOURS).enumerate() {
        let x = LEFT + 110.0 * number as f64;
        rectangle(&mut svg, [x, 18.0, 12.0, 12.0], colour);
        text(&mut svg, [x + 18.0, 28.0], "start", name);
    }
    let legend = "bar: 99 % of all requests take less; white line: half of them do";
    text(&mut svg, [LEFT + 230.0, 28.0], "start", legend);
    let legend = "spread of loads (deviation / mean), mean batch";
    text(&mut svg, [LEFT + 230.0, 46.0], "start", legend);
    for (row, (name, figures)) in rows.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        text(&mut svg, [LEFT - 10.0, y + 20.0], "end", name);
        for (number, (figures, colour)) in figures.iter().zip(COLOURS).enumerate() {
            let y = y + (BAR + 2.0) * number as f64;
            let end = position(figures.p99);
            rectangle(&mut svg, [LEFT, y, end - LEFT, BAR], colour);
            let median = position(figures.p50);
            line(&mut svg, [median, y, median, y + BAR], "#ffffff", 2.0);
            let label = format!(
                "{:.0} / {:.0} ms, spread {:.2}, batch {:.1}",
                figures.p50, figures.p99, figures.spread, figures.batch
            );
            text(&mut svg, [end + 6.0, y + 11.0], "start", &label);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn position(milliseconds: f64) -> f64 {
    let share = (milliseconds.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn rectangle(svg: &mut String, [x, y, width, height]: [f64; 4], colour: &str) {
    write(
        svg,
        format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n"
        ),
    );
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str, width: f64) {
    write(
        svg,
        format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\n"
        ),
    );
}

fn text(svg: &mut String, [x, y]: [f64; 2], anchor: &str, content: &str) {
    write(
        svg,
        format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#333333\">{content}</text>\n"
        ),
    );
}

fn write(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("a string takes everything");
}
