//! Progress on the terminal: one line that is written again; a spinner where the tool gives no total.

use std::io::{IsTerminal, Write};

/// The line.
pub struct Progress {
    on: bool,
    shown: bool,
    turn: usize,
}

const SPINNER: [char; 4] = ['⠋', '⠙', '⠸', '⠴'];
const WIDTH: usize = 30;

impl Progress {
    /// Shown on a terminal only, and not beside a ladder.
    pub fn new(wanted: bool) -> Progress {
        Progress { on: wanted && std::io::stderr().is_terminal(), shown: false, turn: 0 }
    }

    pub fn show(&mut self, done: f64, total: Option<f64>, message: &str) {
        if !self.on {
            return;
        }
        self.turn += 1;
        let text = match total {
            Some(total) if total > 0.0 => {
                let share = (done / total).clamp(0.0, 1.0);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 … WIDTH")]
                let filled = (share * WIDTH as f64) as usize;
                format!("[{}{}] {:.0} %", "█".repeat(filled), " ".repeat(WIDTH - filled), share * 100.0)
            }
            _ => format!("{} {done}", SPINNER[self.turn % SPINNER.len()]),
        };
        let message = sip_proto::escape::escape(message.as_bytes()).to_string();
        let _ = write!(std::io::stderr(), "\r\x1b[K{text} {message}");
        let _ = std::io::stderr().flush();
        self.shown = true;
    }

    pub fn clear(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            self.shown = false;
        }
    }
}
