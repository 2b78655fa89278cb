//! One line on a terminal that says how the run is doing.

use crate::foreground::Followed;
use crate::protected::RunError;
use crate::units::show_span;
use ft_protocol::wire::VmStatus;
use std::io::{self, Write as _};

const CLEAR_LINE: &str = "\r\x1b[2K";

/// The line. It is on standard error, and only there while nothing else is written.
#[derive(Debug, Default)]
pub struct StatusLine {
    text: String,
    shown: bool,
}

impl StatusLine {
    /// Asks for the state, and shows it if this is a place for it.
    pub(crate) fn update(&mut self, run: &mut impl Followed, show: bool) -> Result<(), RunError> {
        self.text = match run.vm_status()? {
            Some(vm) => describe(&vm, run.timeline().blackout_max().map(show_span)),
            None => "ftvm: there is no controller at the moment".to_owned(),
        };
        if show {
            self.draw();
        }
        Ok(())
    }

    /// Shows the last state again.
    pub(crate) fn draw(&mut self) {
        if !self.text.is_empty() {
            put(&format!("{CLEAR_LINE}{}", self.text));
            self.shown = true;
        }
    }

    /// Takes the line away, if it is there.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            put(CLEAR_LINE);
        }
    }
}

fn put(text: &str) {
    // A terminal that is gone needs no status.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn describe(vm: &VmStatus, blackout: Option<String>) -> String {
    let host = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    let protection =
        vm.unprotected.as_ref().map_or("protected".to_owned(), |reason| format!("NOT protected ({reason})"));
    let waits = vm.waits.as_ref().map(|why| format!(" | waits: {why}")).unwrap_or_default();
    let blackout = blackout.map(|span| format!(", longest blackout {span}")).unwrap_or_default();
    format!(
        "ftvm: {} | primary {} secondary {} | epoch {} | takeovers {}{blackout}{waits}",
        protection,
        host(&vm.primary),
        host(&vm.secondary),
        vm.applied.get(),
        vm.takeovers
    )
}
