//! A plot with a logarithmic x axis, as SVG and as a table.

use std::fmt::Write;

use crate::contender::Contender;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 5] = ["#1b6ca8", "#c8553d", "#3f7d20", "#7a4fa3", "#8a6d1b"];

pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), points: Vec::new() }
    }

    pub fn of(contenders: &[Contender]) -> Vec<Self> {
        contenders.iter().map(|contender| Self::new(contender.kind.name())).collect()
    }

    /// One value for each of the series.
    pub fn add(series: &mut [Self], x: f64, values: &[f64]) {
        for (series, value) in series.iter_mut().zip(values) {
            series.points.push((x, *value));
        }
    }
}

pub struct Plot {
    pub title: &'static str,
    pub x: &'static str,
    pub y: &'static str,
    pub series: Vec<Series>,
}

impl Plot {
    pub fn table(&self) -> String {
        let mut xs: Vec<f64> = self.series.iter().flat_map(|series| &series.points).map(|(x, _)| *x).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        let heads: String = self.series.iter().map(|series| format!("  {:>12}", series.name)).collect();
        let mut lines = vec![format!("{} ({})", self.title, self.y), format!("{:>20}{heads}", self.x)];
        for x in xs {
            let values = self.series.iter().map(|series| {
                let there = series.points.iter().find(|(at, _)| at.total_cmp(&x).is_eq());
                let width = series.name.len().max(12) + 2;
                there.map_or_else(|| format!("{:>width$}", "-"), |(_, y)| format!("{y:>width$.1}"))
            });
            lines.push(format!("{x:>20}{}", values.collect::<String>()));
        }
        lines.join("\n")
    }

    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let low = points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min).max(1.0).log10();
        let high = points().map(|(x, _)| *x).fold(1.0, f64::max).log10().max(low + 0.1);
        let step = nice(points().map(|(_, y)| *y).fold(0.0, f64::max) / 5.0);
        let top = step * (points().map(|(_, y)| *y).fold(0.0, f64::max) / step).ceil();
        let across = |x: f64| LEFT + (x.max(1.0).log10() - low) / (high - low) * (WIDTH - LEFT - RIGHT);
        let up = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, LEFT, 22.0, "start", &format!("{} ({})", self.title, self.y));
        let mut y = 0.0;
        while y <= top * 1.001 {
            line(&mut svg, (LEFT, up(y)), (WIDTH - RIGHT, up(y)), "#dddddd");
            text(&mut svg, LEFT - 6.0, up(y) + 4.0, "end", &short(y));
            y += step;
        }
        let mut xs: Vec<f64> = points().map(|(x, _)| *x).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        for x in xs {
            line(&mut svg, (across(x), HEIGHT - BOTTOM), (across(x), HEIGHT - BOTTOM + 4.0), "#555555");
            text(&mut svg, across(x), HEIGHT - BOTTOM + 18.0, "middle", &short(x));
        }
        text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0, "middle", self.x);
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let path: String = series.points.iter().map(|(x, y)| format!("{:.1},{:.1} ", across(*x), up(*y))).collect();
            writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.trim()
            )
            .expect("a string takes everything");
            for (x, y) in &series.points {
                writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", across(*x), up(*y))
                    .expect("a string takes everything");
            }
            let at = LEFT + number as f64 * 110.0;
            line(&mut svg, (at, 40.0), (at + 18.0, 40.0), colour);
            text(&mut svg, at + 22.0, 44.0, "start", &series.name);
        }
        svg + "</svg>\n"
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>")
        .expect("a string takes everything");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\">{words}</text>")
        .expect("a string takes everything");
}

/// The next of 1, 2, 5, 10… at or above.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|nice| *nice >= step).unwrap_or(step)
}

/// 1000000 is 1M.
fn short(value: f64) -> String {
    match value {
        many if many >= 1e6 => format!("{}M", many / 1e6),
        many if many >= 1e4 => format!("{}k", many / 1e3),
        few => format!("{few}"),
    }
}
