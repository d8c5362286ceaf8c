//! The contract, paragraph by paragraph: each test is named after a paragraph of `docs/SEMANTICS.md`.

#![allow(missing_docs)]

mod common;

#[path = "semantics/attributes.rs"]
mod attributes;
#[path = "semantics/bulk.rs"]
mod bulk;
#[cfg(feature = "failpoints")]
#[path = "semantics/busy.rs"]
mod busy;
#[path = "semantics/cli.rs"]
mod cli;
#[path = "semantics/closing.rs"]
mod closing;
#[path = "semantics/crashes.rs"]
mod crashes;
#[path = "semantics/data.rs"]
mod data;
#[path = "semantics/duplicates.rs"]
mod duplicates;
#[path = "semantics/elsewhere.rs"]
mod elsewhere;
#[path = "semantics/failures.rs"]
mod failures;
#[path = "semantics/family.rs"]
mod family;
#[path = "semantics/full.rs"]
mod full;
#[path = "semantics/hiding.rs"]
mod hiding;
#[path = "semantics/hostile.rs"]
mod hostile;
#[path = "semantics/hosts.rs"]
mod hosts;
#[path = "semantics/killed.rs"]
mod killed;
#[path = "semantics/locks.rs"]
mod locks;
#[path = "semantics/marked.rs"]
mod marked;
#[path = "semantics/mounting.rs"]
mod mounting;
#[path = "semantics/names.rs"]
mod names;
#[path = "semantics/paragraphs.rs"]
mod paragraphs;
#[path = "semantics/passed.rs"]
mod passed;
#[path = "semantics/programs.rs"]
mod programs;
#[path = "semantics/promised.rs"]
mod promised;
#[path = "semantics/readers.rs"]
mod readers;
#[path = "semantics/removal.rs"]
mod removal;
#[path = "semantics/renaming.rs"]
mod renaming;
#[path = "semantics/rules.rs"]
mod rules;
#[path = "semantics/unseen.rs"]
mod unseen;
#[path = "semantics/visibility.rs"]
mod visibility;
#[path = "semantics/watching.rs"]
mod watching;
#[path = "semantics/writers.rs"]
mod writers;
