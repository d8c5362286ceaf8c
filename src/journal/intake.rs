//! The queue before the writer. Entries are taken in the order of their tickets.
//!
//! Waking a thread costs more than writing a row, so the writer is not woken for each: for a while after a transaction it
//! looks by itself, and it is woken early only for what somebody waits for.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(test)]
use rusqlite::Connection;

use super::record::Entry;

/// An entry on its way to the writer.
pub(super) struct Queued {
    pub ticket: u64,
    /// Its transaction must survive power loss.
    pub durable: bool,
    /// With it the database has every entry of the redo file up to this number.
    pub redo: Option<u64>,
    pub entry: Entry,
}

pub(super) enum Message {
    Entry(Queued),
    #[cfg(test)]
    Run(Box<dyn FnOnce(&Connection) + Send>),
}

/// What the writer takes its entries from.
#[derive(Default)]
pub(super) struct Intake {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Message>,
    /// Given out, whether taken or not.
    last_ticket: u64,
    /// Somebody waits for what is queued.
    urgent: bool,
    /// The writer waits for anything to come.
    asleep: bool,
    closed: bool,
}

impl Intake {
    /// Queues an entry and returns its ticket. After [`Intake::close`] the entry is dropped.
    pub fn push(&self, entry: Entry, redo: Option<u64>, durable: bool) -> u64 {
        let mut state = self.state.lock();
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        if !state.closed {
            state.waiting.push_back(Message::Entry(Queued { ticket, durable, redo, entry }));
            state.urgent |= durable;
            self.wake(state);
        }
        ticket
    }

    #[cfg(test)]
    pub fn run(&self, call: impl FnOnce(&Connection) + Send + 'static) {
        let mut state = self.state.lock();
        state.waiting.push_back(Message::Run(Box::new(call)));
        state.urgent = true;
        self.wake(state);
    }

    /// What is queued is wanted now.
    pub fn hurry(&self) {
        let mut state = self.state.lock();
        state.urgent = true;
        self.wake(state);
    }

    /// The newest ticket.
    pub fn last_ticket(&self) -> u64 {
        self.state.lock().last_ticket
    }

    /// Nothing comes any more.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if state.asleep || state.urgent || state.closed {
            state.asleep = false;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// All that is queued, and whether more can come. Waits until there is something; where `linger` says so, until then,
    /// unless it is urgent or there are `enough`.
    pub fn take(&self, linger: Option<Instant>, enough: usize) -> (VecDeque<Message>, bool) {
        let mut state = self.state.lock();
        while !state.closed && !state.urgent && state.waiting.len() < enough {
            match linger.filter(|until| *until > Instant::now()) {
                Some(until) => drop(self.changed.wait_until(&mut state, until)),
                None if state.waiting.is_empty() => self.sleep(&mut state, None),
                None => break,
            }
        }
        Self::taken(&mut state)
    }

    /// All that is queued now.
    pub fn take_now(&self) -> (VecDeque<Message>, bool) {
        Self::taken(&mut self.state.lock())
    }

    /// All that is queued as soon as there is something, at the latest at `deadline`.
    pub fn take_before(&self, deadline: Instant) -> (VecDeque<Message>, bool) {
        let mut state = self.state.lock();
        while !state.closed && state.waiting.is_empty() && Instant::now() < deadline {
            self.sleep(&mut state, Some(deadline));
        }
        Self::taken(&mut state)
    }

    fn sleep(&self, state: &mut MutexGuard<'_, State>, until: Option<Instant>) {
        state.asleep = true;
        match until {
            Some(until) => drop(self.changed.wait_until(state, until)),
            None => self.changed.wait(state),
        }
        state.asleep = false;
    }

    fn taken(state: &mut State) -> (VecDeque<Message>, bool) {
        state.urgent = false;
        (std::mem::take(&mut state.waiting), !state.closed)
    }
}
