//! Medians, ratios and floors, as a table or as JSON.

use serde_json::{Value, json};

use crate::Samples;
use crate::contender::Kind;
use crate::work::Workload;

/// The smallest ratio allowed per workload, and the largest idle memory in MiB.
const FLOORS: &str = include_str!("floors.json");

pub struct Row {
    name: &'static str,
    unit: &'static str,
    reference: Kind,
    /// Median rate per contender.
    rates: Vec<(Kind, f64)>,
    /// Median over the rounds of commitfs's rate divided by the reference's in the same round.
    ratio: Option<f64>,
    floor: Option<f64>,
}

impl Row {
    pub fn new(work: &Workload, samples: &Samples) -> Self {
        let of = |kind| samples.get(&(work.name, kind));
        let rates = Kind::ALL.into_iter().filter_map(|kind| Some((kind, median(of(kind)?)?))).collect();
        let ratios: Vec<f64> = match (of(Kind::Commitfs), of(work.reference)) {
            (Some(own), Some(reference)) => own.iter().zip(reference).map(|(own, reference)| own / reference).collect(),
            _ => Vec::new(),
        };
        Self {
            name: work.name,
            unit: work.unit,
            reference: work.reference,
            rates,
            ratio: median(&ratios),
            floor: floor(work.name),
        }
    }

    fn rate(&self, kind: Kind) -> Option<f64> {
        self.rates.iter().find(|(other, _)| *other == kind).map(|(_, rate)| *rate)
    }

    fn line(&self) -> String {
        let rates: String = Kind::ALL
            .iter()
            .map(|kind| self.rate(*kind).map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")))
            .map(|rate| format!("{rate:>11}"))
            .collect();
        let ratio = self.ratio.map_or_else(String::new, |ratio| format!("{ratio:>9.2} {:<8}", self.reference.name()));
        let floor = self.floor.filter(|_| self.ratio.is_some()).map_or_else(String::new, |floor| format!("{floor:>4}"));
        let verdict = if self.holds() { "" } else { "  below" };
        format!("{:<16}{:>9}{rates}{ratio}{floor}{verdict}", self.name, self.unit).trim_end().to_owned()
    }

    fn holds(&self) -> bool {
        self.ratio.zip(self.floor).is_none_or(|(ratio, floor)| ratio >= floor)
    }
}

/// Resident memory of the commitfs daemon in MiB.
pub struct Memory {
    pub idle: f64,
    pub after: f64,
}

impl Memory {
    fn limit() -> f64 {
        floor("idle-memory-mib").unwrap_or(f64::INFINITY)
    }
}

pub struct Report {
    rows: Vec<Row>,
    memory: Option<Memory>,
}

impl Report {
    pub fn new(rows: Vec<Row>, memory: Option<Memory>) -> Self {
        Self { rows, memory }
    }

    /// Whether no ratio is below its floor and the idle memory not above its limit.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds) && self.memory.as_ref().is_none_or(|memory| memory.idle < Memory::limit())
    }

    pub fn table(&self) -> String {
        let heads: String = Kind::ALL.iter().map(|kind| format!("{:>11}", kind.name())).collect();
        let mut lines = vec![format!("{:<16}{:>9}{heads}    ratio to   floor", "workload", "unit")];
        lines.extend(self.rows.iter().map(Row::line));
        if let Some(Memory { idle, after }) = self.memory {
            let limit = Memory::limit();
            lines.push(format!(
                "memory of the daemon: {idle:.1} MiB idle (limit {limit}), {after:.1} MiB after the work"
            ));
        }
        lines.join("\n")
    }

    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let rates: serde_json::Map<_, _> =
                row.rates.iter().map(|(kind, rate)| (kind.name().to_owned(), json!(rate))).collect();
            json!({
                "workload": row.name,
                "unit": row.unit,
                "rates": rates,
                "reference": row.reference.name(),
                "ratio": row.ratio,
                "floor": row.floor,
                "holds": row.holds(),
            })
        });
        json!({
            "workloads": rows.collect::<Vec<_>>(),
            "idle_memory_mib": self.memory.as_ref().map(|memory| memory.idle),
            "memory_after_mib": self.memory.as_ref().map(|memory| memory.after),
            "holds": self.holds(),
        })
    }
}

fn floor(name: &str) -> Option<f64> {
    let floors: Value = serde_json::from_str(FLOORS).expect("tests/bench/floors.json is JSON");
    floors.get(name)?.as_f64()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
