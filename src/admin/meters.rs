//! `/metrics` in the text format of Prometheus: what was counted, and what the journal holds now.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus::{Gauge, Opts, Registry, TextEncoder};

use super::api::Shared;
use super::json::since;
use super::problem::{Answer, Problem};
use crate::journal::read::Counts;
use crate::metrics;

/// `GET /metrics`. A journal that cannot be read costs the numbers that come from it, not the others.
pub(super) async fn metrics(State(shared): State<Shared>) -> Answer<Response> {
    let counts = shared.store.read(|reader| reader.counts()).await.ok();
    let failed = |error: prometheus::Error| {
        tracing::error!(%error, "metrics");
        Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    };
    let now = gauges(&shared, counts.as_ref()).map_err(failed)?;
    let mut families = metrics::registry().gather();
    families.extend(now.gather());
    families.sort_by(|one, other| one.name().cmp(other.name()));
    let text = TextEncoder::new().encode_to_string(&families).map_err(failed)?;
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(CONTENT_TYPE, format)], text).into_response())
}

fn gauges(shared: &Shared, counts: Option<&Counts>) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, value: f64| {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        registry.register(Box::new(gauge))
    };
    let said = shared.said();
    let number = |key: &str| said[key].as_f64().unwrap_or(0.0);
    let healthy = said["journal"].as_str() == Some("ok");
    let version = HashMap::from([("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    let info = Gauge::with_opts(Opts::new("commitfs_info", "Always 1.").const_labels(version))?;
    info.set(1.0);
    registry.register(Box::new(info))?;
    gauge("commitfs_uptime_seconds", "Since the daemon began to serve.", number("uptime_seconds"))?;
    gauge("commitfs_nodes", "Inodes that the kernel knows.", number("nodes"))?;
    gauge("commitfs_journal_healthy", "1 while the journal can be written.", f64::from(u8::from(healthy)))?;
    gauge("commitfs_event_subscribers", "Streams of events being served.", shared.hub.count() as f64)?;
    let Some(counts) = counts else { return Ok(registry) };
    let oldest = counts.oldest_pending.map_or(0.0, |begun| since(begun).as_secs_f64());
    gauge("commitfs_pending_drafts", "Drafts that are not published yet.", counts.pending as f64)?;
    gauge("commitfs_pending_bytes", "Their bytes.", counts.pending_bytes as f64)?;
    gauge("commitfs_oldest_pending_seconds", "Age of the oldest of them, 0 without any.", oldest)?;
    gauge("commitfs_quarantined", "Drafts in quarantine.", counts.quarantined as f64)?;
    gauge("commitfs_quarantined_bytes", "Bytes kept there.", counts.quarantined_bytes as f64)?;
    gauge("commitfs_outbox_depth", "Rows that wait for their removal.", counts.outbox.pending as f64)?;
    gauge("commitfs_outbox_bytes", "Their bytes.", counts.outbox.bytes as f64)?;
    gauge("commitfs_dead_letters", "Removals that failed and wait for an admin.", counts.outbox.dead as f64)?;
    gauge("commitfs_last_event", "Id of the newest event.", counts.last_event as f64)?;
    Ok(registry)
}
