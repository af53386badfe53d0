//! What the reader sees: headed steps, lines, and a table that is redrawn in place on a terminal.
//!
//! Owns: the terminal's codes. Must not: use any where the output is no terminal, or NO_COLOR is set.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};

/// Columns that lines may take beside their indent: 80 in all.
const WIDTH: usize = 78;

/// Where the story is told.
#[derive(Debug)]
pub(super) struct Screen {
    fancy: bool,
    step: Cell<u32>,
}

impl Screen {
    /// Standard output.
    pub(super) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { fancy: std::io::stdout().is_terminal() && !plain, step: Cell::new(0) }
    }

    /// The head of the next step.
    pub(super) fn step(&self, title: &str) {
        self.step.set(self.step.get() + 1);
        let head = format!("{}. {title}", self.step.get());
        if self.fancy {
            println!("\n\x1b[1m{head}\x1b[0m\n");
        } else {
            println!("\n{head}\n{}\n", "-".repeat(head.chars().count()));
        }
    }

    /// Some lines, indented; one that is too long goes on in the next, as far in as it began.
    pub(super) fn say(&self, text: &str) {
        for line in text.lines() {
            wrap(line).iter().for_each(|part| println!("{}", format!("  {part}").trim_end()));
        }
    }

    /// A shell command, as the reader would type it.
    pub(super) fn command(&self, line: &str) {
        let line = format!("$ {line}");
        if self.fancy { println!("\n    \x1b[36m{line}\x1b[0m\n") } else { println!("\n    {line}\n") }
    }

    /// Starts a table that changes.
    pub(super) fn live(&self) -> Live<'_> {
        Live { screen: self, drawn: 0 }
    }
}

/// A line in parts that fit.
fn wrap(line: &str) -> Vec<String> {
    let begin = " ".repeat(line.len() - line.trim_start().len());
    let (mut parts, mut part) = (Vec::new(), line.to_owned());
    while part.chars().count() > WIDTH {
        let most = part.char_indices().nth(WIDTH + 1).map_or(part.len(), |(at, _)| at);
        let Some(space) = part[..most].rfind(' ').filter(|space| *space > begin.len()) else { break };
        let rest = format!("{begin}{}", part[space..].trim_start());
        part.truncate(space);
        parts.push(std::mem::replace(&mut part, rest));
    }
    parts.push(part);
    parts
}

/// A table that changes: redrawn in place on a terminal; elsewhere only its last state is printed.
#[derive(Debug)]
pub(super) struct Live<'a> {
    screen: &'a Screen,
    drawn: usize,
}

impl Live<'_> {
    /// Its present state.
    pub(super) fn draw(&mut self, text: &str) {
        if self.screen.fancy {
            self.put(text);
        }
    }

    /// Its last state.
    pub(super) fn end(mut self, text: &str) {
        if self.screen.fancy { self.put(text) } else { self.screen.say(text) }
    }

    fn put(&mut self, text: &str) {
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in text.lines() {
            out.push_str(&format!("\r  {line}\x1b[K\n"));
        }
        self.drawn = text.lines().count();
        print!("{out}");
        // A terminal that went away comes back as SIGHUP.
        std::io::stdout().flush().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::{WIDTH, wrap};

    #[test]
    fn long_lines_go_on_as_far_in_as_they_began() {
        assert_eq!(wrap("    short  line"), ["    short  line"]);
        assert_eq!(wrap(""), [""]);
        let parts = wrap(&format!("  {} end", "word ".repeat(20).trim_end()));
        assert_eq!(parts.len(), 2, "{parts:?}");
        assert!(parts.iter().all(|part| part.starts_with("  w") && part.len() <= WIDTH), "{parts:?}");
        assert!(parts[1].ends_with("end"), "{parts:?}");
        assert_eq!(wrap(&"\u{e4}".repeat(100)).len(), 1);
    }
}
