//! Medians, ratios and floors, as tables or as JSON.

use serde_json::{Map, Value, json};

use crate::Samples;
use crate::contender::Kind;
use crate::footprint::Footprint;
use crate::work::Workload;

/// Per workload the smallest ratio to its reference that `--check` allows, and the one that is aimed at; with the suffix
/// `-rivals`, to the better of bindfs and mergerfs. And the largest idle memory in MiB.
const FLOORS: &str = include_str!("floors.json");

pub struct Row {
    name: &'static str,
    unit: &'static str,
    reference: Kind,
    /// Median rate per contender.
    rates: Vec<(Kind, f64)>,
    /// Median over the rounds of each contender's rate divided by the reference's in the same round.
    ratios: Vec<(Kind, f64)>,
    /// The same for commitfs and the better of bindfs and mergerfs.
    to_rivals: Option<f64>,
    floor: Option<f64>,
    rivals_floor: Option<f64>,
}

impl Row {
    pub fn new(work: &Workload, samples: &Samples) -> Self {
        let of = |kind| samples.get(&(work.name, kind));
        let divided = |own: &[f64], other: &[f64]| {
            let ratios: Vec<f64> = own.iter().zip(other).map(|(own, other)| own / other).collect();
            median(&ratios)
        };
        let ratios = match of(work.reference) {
            Some(reference) => {
                Kind::ALL.into_iter().filter_map(|kind| Some((kind, divided(of(kind)?, reference)?))).collect()
            }
            None => Vec::new(),
        };
        let rivals = match (of(Kind::Bindfs), of(Kind::Mergerfs)) {
            (Some(one), Some(other)) => Some(one.iter().zip(other).map(|(one, other)| one.max(*other)).collect()),
            (one, other) => one.or(other).cloned(),
        };
        let rivals: Option<Vec<f64>> = rivals.filter(|_| work.rivals);
        Self {
            name: work.name,
            unit: work.unit,
            reference: work.reference,
            rates: Kind::ALL.into_iter().filter_map(|kind| Some((kind, median(of(kind)?)?))).collect(),
            ratios,
            to_rivals: of(Kind::Commitfs).zip(rivals).and_then(|(own, rivals)| divided(own, &rivals)),
            floor: floor(work.name),
            rivals_floor: floor(&format!("{}-rivals", work.name)),
        }
    }

    fn ratio(&self) -> Option<f64> {
        value_of(&self.ratios, Kind::Commitfs)
    }

    fn rates_line(&self, kinds: &[Kind]) -> String {
        let rates: String = kinds.iter().map(|kind| cell(value_of(&self.rates, *kind), rate)).collect();
        format!("{:<15}{:>10}{rates}", self.name, self.unit)
    }

    fn ratios_line(&self, kinds: &[Kind]) -> String {
        let ratios: String = kinds.iter().map(|kind| cell(value_of(&self.ratios, *kind), ratio)).collect();
        let floor = cell(self.floor, ratio);
        let (rivals, rivals_floor) = (cell(self.to_rivals, ratio), cell(self.rivals_floor, ratio));
        let verdict = match (self.holds(), self.is_on_target()) {
            (false, _) => "  below its floor",
            (true, false) => "  below its target",
            (true, true) => "",
        };
        format!("{:<15}{:>10}{ratios}{floor}{rivals}{rivals_floor}{verdict}", self.name, self.reference.name())
    }

    fn is_on_target(&self) -> bool {
        let reached = |ratio: Option<f64>, name: &str| ratio.zip(target(name)).is_none_or(|(ratio, aim)| ratio >= aim);
        reached(self.ratio(), self.name) && reached(self.to_rivals, &format!("{}-rivals", self.name))
    }

    fn holds(&self) -> bool {
        let holds =
            |ratio: Option<f64>, floor: Option<f64>| ratio.zip(floor).is_none_or(|(ratio, floor)| ratio >= floor);
        holds(self.ratio(), self.floor) && holds(self.to_rivals, self.rivals_floor)
    }
}

pub struct Report {
    kinds: Vec<Kind>,
    rows: Vec<Row>,
    footprint: Footprint,
    backing: String,
}

impl Report {
    pub fn new(kinds: Vec<Kind>, rows: Vec<Row>, footprint: Footprint, backing: String) -> Self {
        Self { kinds, rows, footprint, backing }
    }

    /// Whether no ratio is below its floor and the idle memory not above its limit.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds) && self.footprint.holds()
    }

    pub fn tables(&self) -> String {
        let heads: String = self.kinds.iter().map(|kind| format!("{:>12}", kind.name())).collect();
        let mut lines = vec![format!("on {}", self.backing), String::new()];
        lines.push(format!("{:<15}{:>10}{heads}", "rates", "unit"));
        lines.extend(self.rows.iter().map(|row| row.rates_line(&self.kinds)));
        lines.push(String::new());
        lines.push(format!("{:<15}{:>10}{heads}{:>12}{:>12}{:>12}", "ratios", "to", "floor", "to rivals", "floor"));
        lines.extend(self.rows.iter().map(|row| row.ratios_line(&self.kinds)));
        lines.push(String::new());
        lines.push(self.footprint.table());
        lines.join("\n")
    }

    pub fn json(&self) -> Value {
        let map = |values: &[(Kind, f64)]| -> Map<_, _> {
            values.iter().map(|(kind, value)| (kind.name().to_owned(), json!(value))).collect()
        };
        let rows = self.rows.iter().map(|row| {
            json!({
                "workload": row.name,
                "unit": row.unit,
                "rates": map(&row.rates),
                "reference": row.reference.name(),
                "ratios": map(&row.ratios),
                "ratio": row.ratio(),
                "floor": row.floor,
                "to_rivals": row.to_rivals,
                "rivals_floor": row.rivals_floor,
                "target": target(row.name),
                "rivals_target": target(&format!("{}-rivals", row.name)),
                "holds": row.holds(),
            })
        });
        json!({
            "backing": self.backing,
            "machine": machine(),
            "workloads": rows.collect::<Vec<_>>(),
            "footprint": self.footprint.json(),
            "holds": self.holds(),
        })
    }
}

/// The kernel and the number of processors.
pub fn machine() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = release.split('-').next().unwrap_or_default().trim().to_owned();
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("Linux {version}, {processors} processors")
}

fn value_of(values: &[(Kind, f64)], kind: Kind) -> Option<f64> {
    values.iter().find(|(other, _)| *other == kind).map(|(_, value)| *value)
}

fn cell(value: Option<f64>, shown: impl Fn(f64) -> String) -> String {
    format!("{:>12}", value.map_or_else(|| "-".to_owned(), shown))
}

fn rate(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

pub fn floor(name: &str) -> Option<f64> {
    stored("floors", name)
}

fn target(name: &str) -> Option<f64> {
    stored("targets", name)
}

fn stored(kind: &str, name: &str) -> Option<f64> {
    let stored: Value = serde_json::from_str(FLOORS).expect("tests/bench/floors.json is JSON");
    stored.get(kind)?.get(name)?.as_f64()
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
